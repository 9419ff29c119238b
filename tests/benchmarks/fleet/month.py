"""A modelled month: the loop beside never fitting again, and fitting at every report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.simulator import month, month_plot


def measure(
    devices: int, seeds: int, out: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Every policy on every seed; a picture beside it."""
    results = []
    for number in range(seeds):
        for policy in month.Policy:
            results.append(month.simulate(devices, number, policy, say))
            say(f"{policy.value}, seed {number}: {told(results[-1])}")
            (out / "month.svg").write_text(month_plot.picture(results))
    return [dataclasses.asdict(result) for result in results]


def told(result: month.MonthResult) -> str:
    """In a line."""
    return (
        f"regret {result.regret:.0f} (of the ill {result.regret_of_ill:.0f}), {result.over_hours}"
        f" device-hours over budget, {result.refits} refits, {result.studies} studies,"
        f" {result.updates} updates, tickets {', '.join(result.tickets) or 'none'}"
    )
