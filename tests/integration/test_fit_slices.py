"""A fit that keeps top-1 and ruins a rare class fails its budget, once the budget asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.compress.local import LocalRequest, fit_locally
from tests.integration.fit_workloads import textures

RARE = (
    # One input in thirty is noise, and recovery learns from labels that know of none.
    (
        "answers = random.integers(0, 3, count)",
        ('noise = 0.0 if split == "train" else 0.03\n'
        "    answers = random.choice(3, count, p=[0.5, 0.5 - noise, noise])"),
    ),
    ('inputs, answers = data("train")', 'inputs, answers = data("calibration_b")'),
    (
        '{"epochs": 2, "samples": 512, "batch": 32}',
        '{"epochs": 4, "samples": 512, "batch": 32, "alpha": 0.0}',
    ),
    ('"calibration_b": (2, 256)', '"calibration_b": (2, 2000)'),
    ('"test": (3, 256)', '"test": (3, 1000), "must_pass": (4, 200)'),
    ("def metric(", ("def slices(split):\n"
     "    _, answers = data(split)\n"
     '    return {"not rows": answers != 0}\n\n'
     "def metric(")),
)  # fmt: skip


def _fit(base: Path, budget: dict[str, float], *, must_pass: bool) -> dict[str, Any]:
    changes = RARE if must_pass else (*RARE, (', "must_pass": (4, 200)', ""))
    folder = textures(base / f"workload-{must_pass}", *changes)
    request = LocalRequest(
        workload=folder, profile="generic-x86_64", out=base / f"out-{len(budget)}-{must_pass}",
        budget=budget, rounds=2, threads=1, cache=base / "cache",
    )  # fmt: skip
    return fit_locally(request, lambda _step, _fraction: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slices")


@pytest.fixture(scope="module")
def careless(base: Path) -> dict[str, Any]:
    return _fit(base, {}, must_pass=False)


def variant(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(v for v in report["variants"] if v["name"] == name)
    return found


def ruined(report: dict[str, Any]) -> dict[str, Any]:
    """A pruned variant within the budget; which one is the fastest is up to the machine."""
    kept = [v for v in report["variants"] if v["chosen"] or v["reason"] == "keeps to the budget"]
    return next(v for v in kept if "pruned" in v["name"] and rare(v) == 0.0)


def rare(of: dict[str, Any]) -> float:
    value: float = next(s for s in of["slices"] if s["name"] == "class noise")["guard_value"]
    return value


def test_top_1_alone_lets_a_rare_class_be_ruined(careless: dict[str, Any]) -> None:
    taken = ruined(careless)
    assert taken["guard_accuracy_drop"] < 0.05
    slice_ = next(s for s in taken["slices"] if s["name"] == "class noise")
    assert slice_["guard_fp32"] == 1.0
    assert slice_["guard_count"] > 30
    assert taken["flips"] > 0.01


def test_a_limit_for_every_slice_refuses_it_and_names_it(
    base: Path, careless: dict[str, Any]
) -> None:
    careful = _fit(base, {"slice_drop_max": 0.05}, must_pass=False)
    assert "pruned" not in careful["chosen"]
    assert rare(variant(careful, careful["chosen"])) > 0.9
    refused = variant(careful, ruined(careless)["name"])
    assert "drop of class noise" in refused["reason"]
    names = {s["name"] for s in refused["slices"]}
    assert names == {"class rows", "class columns", "class noise", "not rows"}


def test_flips_have_a_limit_too(base: Path, careless: dict[str, Any]) -> None:
    content = _fit(base, {"flips_max": 0.01, "accuracy_drop_max": 0.1}, must_pass=False)
    assert "share of flips" in variant(content, ruined(careless)["name"])["reason"]


def test_what_must_pass_must(base: Path) -> None:
    content = _fit(base, {}, must_pass=True)
    assert "pruned" not in content["chosen"]
    refused = variant(content, "fp32-pruned50-kd")
    assert refused["must_pass_failed"] > 0
    assert refused["reason"] == f"fails {refused['must_pass_failed']} inputs that must pass"
    assert variant(content, "fp32")["must_pass_failed"] == 0
