"""How a rollout's preview is shown."""

from __future__ import annotations

from controller.cli.common import print_facts, print_json, print_table
from controller.domain.preview import Preview
from fitment.core import digest

SHOWN = 200
"""Devices in a table; ``--json`` has all."""


def show_preview(found: Preview, *, as_json: bool) -> None:
    """Who would get what, and why the others would not."""
    if as_json:
        print_json(found)
        return
    waves = [f"wave {n} ({share:.0%})" for n, share in enumerate(found.waves, 1)]
    print_facts(
        {
            "for": found.selection,
            "reaches": ", ".join(
                f"{count} up to {wave}" for wave, count in zip(waves, found.reached, strict=True)
            ),
            "note": "; ".join(found.notes),
        }
    )
    rows = [
        (plan.cohort, digest.short(plan.variant), f"{plan.members} ({plan.online} online)",
         *(str(count) for count in plan.waves))
        for plan in found.cohorts
    ]  # fmt: skip
    print_table(("cohort", "variant", "devices", *(f"up to {w}" for w in waves)), rows, empty="")
    places = [
        (p.device, str(p.wave + 1), digest.short(p.variant), "online" if p.online else "offline")
        for p in found.places[:SHOWN]
    ]
    print_table(("device", "wave at the earliest", "variant", "state"), places, empty="")
    _rest(len(found.places))
    left = [(out.device, out.bar.value, out.reason) for out in found.left_out[:SHOWN]]
    print_table(("gets nothing", "why", "because"), left, empty="Every device gets something.")
    _rest(len(found.left_out))
    print("Nothing was begun: this was --dry-run.")


def _rest(count: int) -> None:
    if count > SHOWN:
        print(f"… and {count - SHOWN} more; --json has them")
