"""What cases come to: rows of the table, mistakes of the gate, and whether the aim is met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fitment.core.deployment import CalibrationMode
from tests.benchmarks.calibration.sensors import UNDONE

HARM = 0.005  # half a point: a loss beyond it is harm, a gain beyond it is worth having
NEAR = 0.03  # of clean: what a shift that loses nothing should be brought back to

Case = Mapping[str, Any]


def row(sensor: str, draw: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Mean, least and most over the seeds of one sensor and choice of samples."""
    own = [c for c in cases if (c["sensor"], c["samples"]) == (sensor, draw)]
    made: dict[str, Any] = {"sensor": sensor, "samples": draw}
    for mode in (item.value for item in CalibrationMode if item.value in own[0]):
        for way in ("always", "gated"):
            values = [case[mode][way] for case in own]
            made[f"{mode}_{way}"] = {
                "mean": statistics.mean(values), "low": min(values), "high": max(values),
            }  # fmt: skip
        made[f"{mode}_applied"] = sum(case[mode]["applied"] for case in own)
    return made


def mistakes(cases: Sequence[Case], mode: str) -> dict[str, Any]:
    """Accepted harm and refused help, beyond half a point.

    A case counts as harmful or helpful by its difference from the file as shipped, input by input:
    by the difference alone, and ("surely") when the whole 95 % interval of it is beyond.
    """
    own = [case[mode] for case in cases if mode in case]
    made = [paired(case) for case in own if case["could_be_made"]]
    behind = [case for case in made if case["applied"]]
    worst = min(behind, key=lambda case: case["change"], default=None)
    found: dict[str, Any] = {"cases": len(own), "applied": sum(c["applied"] for c in own)}
    for name, low, high in (("", "change", "change"), ("surely_", "low", "high")):
        harmful = [case for case in made if case[high] < -HARM]
        helpful = [case for case in made if case[low] > HARM]
        found[f"{name}harmful"] = len(harmful)
        found[f"{name}harmful_accepted"] = sum(c["applied"] for c in harmful)
        found[f"{name}helpful"] = len(helpful)
        found[f"{name}helpful_refused"] = sum(not c["applied"] for c in helpful)
    for name in ("change", "low", "high"):
        found[f"worst_{name}"] = worst[name] if worst else 0.0
    return found


def aim(
    cases: Sequence[Case], base: Mapping[str, Mapping[str, float]], mode: str
) -> dict[str, Any]:
    """How many cases fall behind what was shipped, and how many stay away from clean."""
    own = [(case["sensor"], case[mode]) for case in cases if mode in case]
    behind = sum(case["gated"] < case["shipped"] - HARM for _, case in own)
    found = {"cases": len(own), "behind_shipped": behind}
    if "clean" not in base:
        return found
    near = base["clean"]["as_shipped"] - NEAR
    undone = [case for sensor, case in own if sensor in UNDONE]
    return {
        **found,
        "undone": len(undone),
        "far_from_clean": sum(case["gated"] < near for case in undone),
        "far_as_shipped": sum(case["shipped"] < near for case in undone),
    }


def paired(case: Case) -> dict[str, Any]:
    """A case with its paired difference and that one's interval of 95 %.

    ``(gained - lost) / n`` with the standard error of paired answers (McNemar's table).
    """
    gained, lost, count = case["gained"], case["lost"], case["asked"]
    error = np.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0.0)) / count
    change, reach = (gained - lost) / count, 1.96 * float(error)
    return {**case, "change": change, "low": change - reach, "high": change + reach}
