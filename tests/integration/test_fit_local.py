"""A fit without a fleet, from the workload file to ``variants.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.compress.local import LocalRequest, fit_locally
from controller.errors import UserError, WorkloadError
from fitment.core import digest


def _fit(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    request = LocalRequest(
        workload=root / "controller" / "examples" / "onnx_only",
        profile=changes.pop("profile", "generic-x86_64"),
        out=out,
        threads=1,
        rounds=2,
        **changes,
    )
    return fit_locally(request, lambda _step, _fraction: None)


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    out = tmp_path_factory.mktemp("local")
    return out, _fit(root, out)


def test_the_report_is_the_file(report: tuple[Path, Mapping[str, Any]]) -> None:
    out, content = report
    assert json.loads((out / "variants.json").read_text()) == content
    assert content["fp32_accuracy"] == content["variants"][0]["accuracy"] > 0.8
    assert content["failed"] == {}
    assert {(v["name"], v["runtime"]) for v in content["variants"]} >= {
        ("fp32", "onnx"), ("int8-dynamic", "onnx"), ("fp32", "litert"), ("int8-s8s8", "litert"),
    }  # fmt: skip


def test_every_variant_is_there_with_its_evidence(
    report: tuple[Path, Mapping[str, Any]],
) -> None:
    out, content = report
    for variant in content["variants"]:
        held = (out / variant["path"]).read_bytes()
        assert digest.digest_bytes(held) == variant["sha256"]
        assert len(held) == variant["file_bytes"]
        assert variant["latency"]["value"] > 0
        assert variant["latency"]["unit"] == "ms"
        assert variant["latency"]["verdict"] in ("valid", "contended", "drifting", "too_short")
        low, high = variant["accuracy_interval"]
        assert low < variant["accuracy"] < high


def test_one_is_chosen_and_says_why(report: tuple[Path, Mapping[str, Any]]) -> None:
    chosen = [v for v in report[1]["variants"] if v["chosen"]]
    assert [v["name"] for v in chosen] == [report[1]["chosen"]]
    assert "ms p50" in chosen[0]["reason"]


def test_a_budget_that_nothing_meets_names_the_closest(
    root: Path, tmp_path: Path, report: tuple[Path, Mapping[str, Any]]
) -> None:
    content = _fit(
        root,
        tmp_path,
        profile="raspberry-pi-5",
        budget={"file_bytes_max": 1000},
        cache=report[0] / ".work" / "cache",
    )
    assert content["chosen"] == ""
    assert "came closest: file bytes" in content["closest"]
    assert all("is above 1000" in v["reason"] for v in content["variants"])

    # A kind of machine that is not this one is not timed as if it were here.
    assert content["notes"]
    assert {v["latency"]["kind"] for v in content["variants"]} == {"estimated"}
    assert all("not of the profile's kind" in v["latency"]["reason"] for v in content["variants"])


def test_mistakes_are_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a budget has no 'speed'"):
        _fit(root, tmp_path, budget={"speed": 1})
    request = LocalRequest(workload=tmp_path / "nowhere", profile="generic-x86_64", out=tmp_path)
    with pytest.raises(WorkloadError, match="no such workload file"):
        fit_locally(request, lambda _step, _fraction: None)
