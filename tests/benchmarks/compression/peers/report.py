"""What the scores say: Fitment's chosen point against every point of its peers, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from controller.domain.choice import choose
from controller.domain.fleet import Budget, Variant
from controller.domain.ranking import TIE
from fitment.core import plain
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict
from tests.benchmarks.compression import score
from tests.benchmarks.compression.peers import tools

LEAGUES = (tools.POST, tools.TRAINING)


def compare(found: Mapping[str, Any], right: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By league: Fitment's choice, and how each peer's point stands to it."""
    return {league: _league(league, found, right) for league in LEAGUES}


def _league(
    league: str, found: Mapping[str, Any], right: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    prefix = f"{league}/{tools.OURS}/"
    own = found["tools"].get(f"{league}/{tools.OURS}", {})
    if "points" not in own:
        return {}
    chosen = f"{prefix}{_chosen(league, own['points'], found['scored'])}"
    entries = {}
    for name in found["scored"]:
        if name.startswith(f"{league}/") and not name.startswith(prefix):
            entries[name] = _against(name, chosen, found["scored"], right)
            best = [
                other
                for other in found["scored"]
                if other.startswith(prefix)
                and _against(name, other, found["scored"], right)["dominated"]
            ]
            entries[name]["dominated_by"] = [other.removeprefix(prefix) for other in best]
    return {"chosen": chosen.removeprefix(prefix), "peers": entries}


def _against(
    peer: str, ours: str, scored: Mapping[str, Any], right: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Fitment's point minus the peer's; ``dominated``: no worse in all three."""
    change = score.accuracy(right[ours], right[peer])
    wire = scored[ours]["wire_bytes"] / scored[peer]["wire_bytes"]
    time = scored[ours]["latency"]["p50_ms"] / scored[peer]["latency"]["p50_ms"]
    no_worse = change["change_interval"][1] >= 0.0
    return {
        "accuracy_change": change["change"],
        "accuracy_change_interval": change["change_interval"],
        "wire_share": wire,
        "time_share": time,
        "dominated": bool(no_worse and wire <= 1.0 and time <= 1.0 + TIE),
    }


def _chosen(league: str, points: Any, scored: Mapping[str, Any]) -> str:
    """Fitment's own rule on guard figures and the times of this run."""
    variants = {p["name"]: plain.from_plain(Variant, p["variant"]) for p in points}
    measured = {
        v.bundle.variant: measurement(v, scored[f"{league}/{tools.OURS}/{name}"]["latency"])
        for name, v in variants.items()
    }
    budget = plain.from_plain(Budget, tools.BUDGETS[league])
    choice = choose(tuple(variants.values()), budget, measured)
    return next(n for n, v in variants.items() if v.bundle.variant == choice.chosen)


def measurement(variant: Variant, timed: Mapping[str, Any]) -> Measurement:
    """The times of this run in the form that a choice is made from."""
    return Measurement(
        id=variant.name,
        bundle=variant.bundle.variant,
        runtime=variant.runtime,
        threads=1,
        verdict=Verdict(timed["verdict"]),
        energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor is read"),
        latency=Latency(
            count=timed["count"],
            mean_ms=timed["p50_ms"],
            min_ms=timed["p50_ms"],
            p50_ms=timed["p50_ms"],
            p50_low_ms=timed["p50_ms"],
            p50_high_ms=timed["p50_ms"],
            p95_ms=timed["p95_ms"],
        ),
        emulated=False,
    )


def text(found: Mapping[str, Any]) -> str:
    """Markdown tables, one a league."""
    parts = [_table("fp32", ["fp32"], found)]
    for league in LEAGUES:
        names = [n for n in found["scored"] if n.startswith(f"{league}/")]
        compared = found["comparison"].get(league, {})
        if names:
            parts.append(_table(league, names, found))
            parts.append(f"Fitment chose `{compared['chosen']}`.")
            parts += [_words(n, e) for n, e in compared["peers"].items() if not e["dominated"]]
    for key, record in found["tools"].items():
        if "unavailable" in record:
            parts.append(f"{key}: unavailable: {record['unavailable']}")
        parts += [f"{key}/{n}: failed: {why}" for n, why in record.get("failed", {}).items()]
    return "\n\n".join(parts)


def _table(title: str, names: list[str], found: Mapping[str, Any]) -> str:
    points = {
        f"{key}/{p['name']}": p
        for key, record in found["tools"].items()
        for p in record.get("points", ())
    }
    rows = [
        f"**{title}**",
        "",
        "| tool / point | accuracy | against fp32 | file | xz | memory | p50 | made in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [_row(n.removeprefix(f"{title}/"), found["scored"][n], points.get(n)) for n in names]
    return "\n".join(rows)


def _row(name: str, s: Mapping[str, Any], point: Mapping[str, Any] | None) -> str:
    low, high = s["accuracy_interval"]
    change_low, change_high = s["change_interval"]
    memory = "-" if s["memory_bytes"] is None else f"{s['memory_bytes'] / 2**20:.1f} MiB"
    verdict = s["latency"]["verdict"]
    took = "-" if point is None else f"{point['cpu_s']:.0f} CPU s"
    labels = " (labels)" if point is not None and point["labels"] else ""
    return (
        f"| {name}{labels} | {100 * s['accuracy']:.2f} % ({100 * low:.2f} to {100 * high:.2f}) "
        f"| {100 * s['change']:+.2f} ({100 * change_low:+.2f} to {100 * change_high:+.2f}) "
        f"| {s['file_bytes'] / 1000:.0f} kB | {s['wire_bytes'] / 1000:.0f} kB | {memory} "
        f"| {s['latency']['p50_ms']:.3f} ms, {verdict} | {took} |"
    )


def _words(name: str, entry: Mapping[str, Any]) -> str:
    low, high = entry["accuracy_change_interval"]
    others = ", ".join(entry["dominated_by"]) or "no other point either"
    return (
        f"Not dominated by the chosen point: {name}. Ours against it: "
        f"{100 * entry['accuracy_change']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f}), "
        f"{entry['wire_share']:.2f} of its bytes, {entry['time_share']:.2f} of its time; "
        f"dominated by: {others}."
    )
