"""The matrix of bad input, first part: what an operator hands over.

Workloads, checkpoints, ONNX files, budgets, profiles. Tokens, certificates and applications are in
`test_bad_input_fleet`, artifacts and full disks in `test_bad_input_disk`. Each row holds three
things: the exit code, one line that says what is wrong with what and how to mend it, and that
nothing was lost or left half-done.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller import cli
from tests.integration.test_serve import Running
from tests.integration.worker_models import onnx_affine

from .bad_world import Terminal, kept, one_line, records, serving, unfinished, write_workload

COVERED: Mapping[str, str] = {
    "a workload's labels, counts and types": (
        "tests/unit/controller/catalog/test_check.py::test_sets_and_labels_must_fit"
    ),
    "a declared file outside or missing": (
        "tests/unit/controller/catalog/test_snapshot.py::test_what_is_wrong_is_said"
    ),
    "every other key and type of a profile": (
        "tests/unit/profiles/test_profiles.py::test_a_mistake_is_named_with_its_mend"
    ),
    "a budget none meets, of a fleet": (
        "tests/unit/controller/domain/test_choice.py::test_nothing_fits_and_the_nearest_is_named"
    ),
    "a stream of altered, endless, cut or stalled bytes": (
        "tests/integration/test_fetch.py::test_altered_bytes_are_deleted_and_fetched_anew"
    ),
    "an altered order, release or metadata": (
        "tests/integration/test_trust_verify.py::test_an_altered_order"
    ),
    "an archive with links, doubles, bombs, paths": (
        "tests/unit/agent/workers/security/test_stage.py::test_only_regular_files"
    ),
    "operators that a pass does not know, branches, states": (
        "tests/integration/test_fit_sources.py::test_several_inputs_a_state_and_branches_survive"
    ),
    "a model of which nothing can be quantized": (
        "tests/integration/test_fit_sources.py"
        "::test_where_all_is_inside_branches_fp32_is_what_there_is"
    ),
    "sizes that are free in the file": (
        "tests/integration/test_fit_sources.py::test_constant_weights_and_free_sizes"
    ),
    "activations that are NaN": (
        "tests/unit/controller/compress/quantize/test_observers.py"
        "::test_what_cannot_be_observed_is_said"
    ),
    "activations that are constant": (
        "tests/unit/controller/compress/quantize/test_observers.py"
        "::test_constant_tensors_have_their_own_range"
    ),
    "a channel that is dead": (
        "tests/unit/controller/compress/quantize/test_numbers.py"
        "::test_an_emptied_channel_keeps_its_bias"
    ),
    "calibration sets that are too small": (
        "tests/unit/controller/catalog/test_check.py::test_sets_and_labels_must_fit"
    ),
    "calibration sets that are too different": (
        "tests/unit/controller/catalog/test_check.py::test_calibration_sets_that_differ_are_noted"
    ),
    "an exported program that would run code": (
        "tests/unit/controller/catalog/test_program.py::test_what_could_run_code_is_refused_by_name"
    ),
    "named inputs and operating points that do not fit": (
        "tests/unit/controller/catalog/test_samples.py::test_named_inputs_that_do_not_fit"
    ),
    "a disk that fills up during a transfer": (
        "tests/integration/test_fetch.py::test_a_disk_that_fills_up_on_the_way"
    ),
    "a foreign certificate at the broker, from inside": (
        "tests/integration/test_broker.py::test_strangers_are_refused"
    ),
}
"""Rows that another test holds thoroughly, and which."""


@pytest.mark.parametrize("row", COVERED)
def test_what_others_hold_is_still_held(row: str, root: Path) -> None:
    path, _, name = COVERED[row].partition("::")
    tree = ast.parse((root / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("fleet") / "data", root) as made:
        yield made
        assert "Traceback" not in (made.data_dir / "log").read_text()


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bad workload, and what has to be said of it."""

    words: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...] = ()
    extra: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


TORCH = """
def source():
    import torch
    from pathlib import Path

    model = torch.nn.Linear(4, 3)
    path = Path(__file__).with_name("model.onnx")
    model.load_state_dict({load})
    return model
"""
LOAD_PT = "torch.load(path, weights_only=True)"
LOAD_SAFE = "__import__('safetensors.torch').torch.load_file(path)"
MEND = "mend the workload file, or what it reads"

WORKLOADS: Mapping[str, Row] = {
    "it raises when loaded": Row(
        extra="raise RuntimeError('the camera\\nis gone')",
        words=("workload.py cannot be loaded: RuntimeError: the camera is gone", "line 23", MEND),
    ),
    "it ends the process": Row(
        extra="raise SystemExit(3)", words=("workload.py", "SystemExit", MEND)
    ),
    "it is no Python": Row(extra="def", words=("workload.py: not a Python file",)),
    "its source raises": Row(
        swaps=(('return "model.onnx"', "raise OSError('no such camera')"),),
        words=("tiny: source() failed: OSError: no such camera", "workload.py, line 12", MEND),
    ),
    "its data raise": Row(
        swaps=(("random = np", "random = np.load('absent.npy')"),),
        words=("tiny: data('calibration_a') failed: FileNotFoundError", "absent.npy", MEND),
    ),
    "its metric raises": Row(
        swaps=(("return float((", "return 1 / 0 + float(("),),
        words=("tiny: metric(outputs, labels) failed: ZeroDivisionError", MEND),
    ),
    "its metric is no number": Row(
        swaps=(("return float((", "return float('nan') + float(("),),
        words=("tiny: metric(outputs, labels) gave nan; it must be a finite number",),
    ),
    "it has no metric": Row(
        swaps=(("def metric(", "def mteric("),),
        words=("workload.py: no `metric`; a workload file defines", "metric(outputs, labels)"),
    ),
    "its inputs have another shape": Row(
        swaps=(("size=(64, 4)", "size=(64, 5)"),),
        words=("tiny: data('calibration_a')", "shape (64, 5); expected (N, 4)", "`input_shape`"),
    ),
    "it has fewer labels than inputs": Row(
        swaps=(("return inputs, answers", "return inputs, answers[1:]"),),
        words=("tiny: data('calibration_a') gives 64 inputs but labels of shape (63,)", "equal"),
    ),
    "its model takes another shape": Row(
        swaps=(("(4,)", "(5,)"), ("size=(64, 4)", "size=(64, 5)")),
        words=("tiny: running 'model.onnx' failed", "Expected: 4", "a batch of `input_shape`"),
    ),
    "its calibration sets overlap": Row(
        swaps=(('"calibration_b": 2', '"calibration_b": 1'),),
        words=("data('calibration_a') and data('calibration_b') share 64 samples", "take them"),
    ),
    "its guard set is its test set": Row(
        swaps=(('"test": 3', '"test": 2'),),
        words=("data('calibration_b') and data('test') share 64 samples", "separate parts"),
    ),
    "its budget has an unknown name": Row(
        swaps=(("accuracy_drop_max", "accuracy_drop"),),
        words=("workload.py: `budget` has no key 'accuracy_drop'; the keys are accuracy_drop_max",),
    ),
    "its checkpoint is cut": Row(
        extra=TORCH.replace("{load}", LOAD_PT),
        files={"model.onnx": b"PK\x03\x04" + bytes(200)},
        words=("tiny: source() failed: RuntimeError", "workload.py, line", LOAD_PT, MEND),
    ),
    "its checkpoint is another format": Row(
        extra=TORCH.replace("{load}", LOAD_SAFE),
        files={"model.onnx": b"\xff" * 64},
        words=("tiny: source() failed: SafetensorError", "workload.py, line", MEND),
    ),
    "its checkpoint is another model's": Row(
        extra=TORCH.replace("{load}", "{'other.weight': torch.zeros(3)}"),
        words=("tiny: source() failed: RuntimeError", "Missing key(s)", '"other.weight"', MEND),
    ),
    "its ONNX file is text": Row(
        files={"model.onnx": b"no model at all"},
        words=("tiny: 'model.onnx' is not an ONNX file", "export it again, or copy it whole"),
    ),
    "its ONNX file is cut": Row(
        files={"model.onnx": onnx_affine()[:-40]},
        words=("tiny: 'model.onnx' is not an ONNX file", "export it again, or copy it whole"),
    ),
    "its ONNX file is empty": Row(
        files={"model.onnx": b""},
        words=("tiny: 'model.onnx' is not an ONNX file", "export it again, or copy it whole"),
    ),
    "its file is not there": Row(
        swaps=(('["model.onnx"]', '["weights.onnx"]'),),
        words=("workload.py: the declared file 'weights.onnx' is missing",),
    ),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_bad_workload_is_not_fitted(name: str, terminal: Terminal, tmp_path: Path) -> None:
    row, out = WORKLOADS[name], tmp_path / "out"
    path = write_workload(tmp_path / "given", *row.swaps, extra=row.extra, files=row.files)
    out.mkdir()
    (out / "variants.json").write_text("of an earlier fit")
    said = terminal.refused("fit", str(path), "--profile", "generic-x86_64", "--out", str(out))
    assert [words for words in row.words if words not in said] == [], said
    assert (out / "variants.json").read_text() == "of an earlier fit"
    assert [p.name for p in out.iterdir() if not p.name.startswith(".")] == ["variants.json"]
    assert unfinished(out) == []


@pytest.mark.parametrize(
    "name",
    [
        "it raises when loaded", "its source raises", "it has no metric", "its metric raises",
        "its inputs have another shape", "its calibration sets overlap", "its checkpoint is cut",
        "its ONNX file is text", "its file is not there",
    ],
)  # fmt: skip
def test_a_bad_workload_is_not_registered(
    name: str, running: Running, terminal: Terminal, tmp_path: Path
) -> None:
    row, data_dir = WORKLOADS[name], running.data_dir
    path = write_workload(tmp_path / "given", *row.swaps, extra=row.extra, files=row.files)
    before, files = records(running), kept(data_dir)
    said = terminal.refused("model", "register", str(path), "--data-dir", str(data_dir))
    assert [words for words in row.words if words not in said] == [], said
    assert records(running) == before
    assert kept(data_dir) == files


def test_a_mended_workload_is_registered_once(
    running: Running, terminal: Terminal, tmp_path: Path
) -> None:
    data_dir = str(running.data_dir)
    bad = write_workload(tmp_path / "given", files={"model.onnx": b"no model"})
    terminal.refused("model", "register", str(bad), "--data-dir", data_dir)
    good = write_workload(tmp_path / "given")
    for _ in range(2):
        assert terminal.run("model", "register", str(good), "--data-dir", data_dir).code == 0
    with running.client() as client:
        assert [(model.name, model.version) for model in client.models()] == [("tiny", "1")]
        actions = [entry.action for entry in client.audit()]
    assert actions.count("model_registered") == 1
    # The same name and version with other content would make two things of one name.
    other = write_workload(tmp_path / "given", extra="note = 1")
    said = terminal.refused("model", "register", str(other), "--data-dir", data_dir)
    assert "tiny 1" in said


# --- budgets that nothing meets ------------------------------------------------------------------


def test_a_budget_that_nothing_meets_says_what_came_closest(
    terminal: Terminal, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    limit = 100
    path = write_workload(tmp_path / "given")
    said = terminal.refused(
        "fit", str(path), "--profile", "generic-x86_64", "--out", str(out),
        "--budget", f"file_bytes_max={limit}", code=cli.FAILURE,
    )  # fmt: skip
    report = json.loads((out / "variants.json").read_text())
    smallest = min(report["variants"], key=lambda v: v["file_bytes"])
    size = smallest["file_bytes"]
    assert said == (
        f"no variant keeps to the budget; {smallest['name']} came closest: file bytes {size} is"
        f" above {limit} ({100 * (size - limit) / limit:.0f} % off): raise that limit, or try"
        f" --thorough; what was made, with its evidence, is in {out}"
    )
    assert report["chosen"] == ""
    assert all((out / variant["path"]).stat().st_size for variant in report["variants"])
    assert unfinished(out) == []
    # The limit raised to just that, the same variants are chosen from.
    again = terminal.run(
        "fit", str(path), "--profile", "generic-x86_64", "--out", str(out), "--json",
        "--budget", f"file_bytes_max={size}",
    )  # fmt: skip
    assert again.code == 0, again.error
    assert json.loads(again.out)["chosen"] == smallest["name"]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("file_bytes=1", "a budget has no 'file_bytes'; the names are accuracy_drop_max"),
        ("file_bytes_max=small", "--budget takes NAME=NUMBER, not 'file_bytes_max=small'"),
        ("file_bytes_max=nan", "--budget takes NAME=NUMBER"),
        ("latency_p95_max_ms=-1", "--budget takes NAME=NUMBER"),
    ],
)
def test_a_limit_that_is_none(budget: str, words: str, terminal: Terminal, tmp_path: Path) -> None:
    path, out = write_workload(tmp_path / "given"), tmp_path / "out"
    said = terminal.refused(
        "fit", str(path), "--profile", "generic-x86_64", "--out", str(out), "--budget", budget
    )
    assert words in said
    assert not (out / "variants.json").exists()


# --- profiles ------------------------------------------------------------------------------------

PROFILE = """
name = "my-board"
title = "mine"
sensors = ["psi"]

[match]
model = ["My Board"]

[[runtime]]
name = "onnx"
format = "onnx"
schemes = ["fp32"]
calibration = "none"
"""
PROFILES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "an unknown key": ("[place]", ("unknown key 'place'", "remove it (known: ")),
    "an unknown key of the budget": (
        "[budget]\nfile_byte_max = 1",
        ("[budget]: unknown key 'file_byte_max'", "did you mean 'file_bytes_max'?"),
    ),
    "a budget of less memory than file": (
        "[budget]\nfile_bytes_max = 9000\npeak_memory_max_bytes = 8000",
        ("[budget]: peak_memory_max_bytes (8000) is below file_bytes_max (9000)", "raise the"),
    ),
    "a limit that nothing measures": (
        "[budget]\nenergy_max_mj = 5.0",
        ("[budget] energy_max_mj is set and no sensor measures energy", "remove the limit"),
    ),
    "a limit out of its range": (
        "[budget]\nagreement_min = 1.5",
        ("[budget]: 'agreement_min' is 1.5", "write a number of at least 0 and at most 1"),
    ),
    "no TOML": ("[budget", ("not valid TOML",)),
}


def _add_profile(folder: Path, root: Path, text: str) -> None:
    """Profiles are files of the installed package, so a fleet's own lies in a copy of it."""
    shutil.copytree(root / "profiles", folder / "profiles")
    (folder / "profiles" / "data" / "my-board.toml").write_text(text)


def _with_profiles(folder: Path, root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True, text=True, timeout=60, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{root}:{root / 'protos'}"},
    )  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
def test_a_bad_profile_stops_what_would_use_it(name: str, tmp_path: Path, root: Path) -> None:
    budget, words = PROFILES[name]
    _add_profile(tmp_path, root, PROFILE.replace("[match]", f"{budget}\n[match]"))
    done = _with_profiles(tmp_path, root, "controller", "profile", "list")
    assert (done.returncode, done.stdout) == (cli.USER_ERROR, "")
    said = one_line(done.stderr, "fitment")
    assert said.startswith("profiles/data/my-board.toml: ")
    assert [part for part in words if part not in said] == [], said
    # A device goes on without: it needs no profile, and says that this one is not read.
    device = _with_profiles(tmp_path, root, "agent", "doctor", "--json")
    findings = {f["subject"]: f for f in json.loads(device.stdout)["findings"]}
    assert findings["profile"]["level"] == "warn"
    assert said in findings["profile"]["message"]
    assert device.stderr == ""


def test_a_bad_profile_keeps_a_controller_from_starting_and_its_store_as_it_was(
    tmp_path: Path, root: Path
) -> None:
    with serving(tmp_path / "data", root) as running, running.client() as client:
        client.create_token(60.0)
    before = _content(tmp_path / "data")
    _add_profile(tmp_path, root, PROFILE + 'colour = "red"')
    done = _with_profiles(
        tmp_path, root, "controller", "serve", "--data-dir", str(tmp_path / "data")
    )
    assert done.returncode == cli.USER_ERROR
    said = one_line(done.stderr, "fitment")
    assert said.startswith("profiles/data/my-board.toml: ")
    assert _content(tmp_path / "data") == before


def _content(data_dir: Path) -> dict[str, bytes]:
    """Every file of a controller that does not run; each start signs its revocations anew."""
    files = (path for path in data_dir.rglob("*") if path.is_file() and path.name != "crl.pem")
    return {str(path): path.read_bytes() for path in files}
