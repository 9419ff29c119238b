"""``fitment fit`` as a process, on the example that needs no training."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
FIELDS = {
    "name", "runtime", "path", "sha256", "recipe", "accuracy", "accuracy_interval", "agreement",
    "sqnr_db", "integer_coverage", "file_bytes", "wire_bytes", "latency", "chosen", "reason",
}  # fmt: skip


def fitment(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_fit_leaves_artifacts_and_their_evidence(tmp_path: Path) -> None:
    out = tmp_path / "fitted"
    done = fitment("fit", "onnx_only", "--profile", "generic-x86_64", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "variants.json").read_text())
    assert json.loads(done.stdout) == report
    assert report["failed"] == {}
    variants = report["variants"]
    assert {v["runtime"] for v in variants} == {"onnx", "litert"}
    for variant in variants:
        assert set(variant) >= FIELDS
        content = (out / variant["path"]).read_bytes()
        assert variant["sha256"].endswith(hashlib.sha256(content).hexdigest())
        assert variant["file_bytes"] == len(content)
        low, high = variant["accuracy_interval"]
        assert low <= variant["accuracy"] <= high
        assert variant["agreement"] > 0.95
        assert variant["latency"]["unit"] == "ms"
    chosen = [v for v in variants if v["chosen"]]
    assert len(chosen) == 1
    assert "p50" in chosen[0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope", "--profile", "generic-x86_64"), "neither a file nor one of the examples"),
        (("onnx_only", "--profile", "nope"), "no profile 'nope'"),
        (("onnx_only", "--profile", "imx93", "--budget", "size=1"), "a budget has no 'size'"),
        (("onnx_only", "--profile", "imx93", "--budget", "x"), "--budget takes NAME=NUMBER"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = fitment("fit", *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_workload_without_its_parts_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text('name = "x"\nversion = "1"\n')
    done = fitment("fit", str(broken), "--profile", "imx93", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "no `metric`" in done.stderr
