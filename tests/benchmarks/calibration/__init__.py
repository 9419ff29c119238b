"""Calibration on the device, for better or worse: shifts of the sensor, and what the gate lets by.

An int8 variant is calibrated on unlabelled inputs that a shifted sensor sees, by the worker that
devices run, and asked about test inputs seen by the same sensor. Once through the gate, and once
past it: only so do its mistakes show. No label is used but to count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.calibration import costs, counting, subjects
from tests.benchmarks.calibration.sensors import SENSORS, Images, seen
from tests.benchmarks.calibration.subjects import Subject
from tests.benchmarks.calibration.world import World

SEEDS = 5
FULL = "256"  # the draw that every mode is asked about; the others are for the first alone
SUBJECTS = ("fashion_mnist", "digits", "angle")

Say = Callable[[str], None]


def measure(
    out: Path,
    bundles: Mapping[str, Path],
    say: Say,
    *,
    images: int = 10_000,
    only: Sequence[str] = SUBJECTS,
    sensors: Sequence[str] = tuple(SENSORS),
) -> dict[str, Any]:
    """Every subject: every sensor, every choice of samples, five seeds.

    Args:
        out: working folder; a sensor that was measured there already is not measured again.
        bundles: of the variants ``fp32`` and ``int8-u8s8`` of the example for onnxruntime.
        say: progress.
        images: of each test set, the first ones.
        only: names out of `SUBJECTS`.
        sensors: names out of `SENSORS`.
    """
    work = out / "calibration"
    made: dict[str, Callable[[], Subject]] = {
        "fashion_mnist": lambda: subjects.fashion(work / "fashion", bundles, images),
        "digits": lambda: subjects.digits(work / "digits", images),
        "angle": lambda: subjects.angle(work / "angle", images),
    }
    found = {name: _subject(made[name](), work, say, sensors) for name in only}
    result: dict[str, Any] = {"seeds": SEEDS, "subjects": found, "costs": {}}
    if "fashion_mnist" in only:
        fashion = made["fashion_mnist"]()
        result["costs"] = costs.measure(fashion, out / "costs", say)
    return result


def _subject(subject: Subject, work: Path, say: Say, sensors: Sequence[str]) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    base: dict[str, dict[str, float]] = {}
    for name in sensors:
        kept = work / f"{subject.name}-{len(subject.test[0])}-{name.replace(' ', '-')}.json"
        if not kept.is_file():
            say(f"calibration: {subject.name}, {name}")
            kept.write_text(json.dumps(_behind(subject, name, work), indent=2))
        known = json.loads(kept.read_bytes())
        base[name] = known["base"]
        cases += known["cases"]
    return {
        "test_inputs": len(subject.test[0]),
        "base": base,
        "table": [counting.row(name, draw, cases) for name in sensors for draw in subject.draws],
        "gate": {mode.value: counting.mistakes(cases, mode.value) for mode in subject.modes},
        "aim": {mode.value: counting.aim(cases, base, mode.value) for mode in subject.modes},
        "cases": cases,
    }


def _behind(subject: Subject, name: str, work: Path) -> dict[str, Any]:
    """All cases of one sensor; what was measured outlives what breaks later."""
    sensor = SENSORS[name]
    world = World(subject, sensor, work / f"work-{subject.name}")
    cases = []
    for draw in subject.draws:
        for seed in range(SEEDS):
            local = subject.fed(seen(_drawn(subject, draw, seed), sensor, seed=1 + seed))
            found = {}
            for mode in subject.modes if draw == FULL else subject.modes[:1]:
                found[mode.value] = world.case(mode, local, seed)
            cases.append({"sensor": name, "samples": draw, "seed": seed, **found})
    base = {"fp32": float(world.fp32.mean()), "as_shipped": float(world.shipped.mean())}
    return {"base": base, "cases": cases}


def _drawn(subject: Subject, draw: str, seed: int) -> Images:
    count, fitting = subject.draws[draw]
    chosen = np.random.default_rng(1000 + seed).choice(fitting, count, replace=False)
    return subject.pictures(subject.local[chosen])
