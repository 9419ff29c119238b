"""Validation runs the real model on few samples and checks that the sets are disjoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.catalog import check, workload
from controller.errors import WorkloadError

Writer = Callable[..., Path]


def test_a_good_workload_gives_facts(write: Writer, torch_source: str) -> None:
    facts = check.validate(workload.load(write(extra=torch_source)))
    assert (facts.source, facts.output_shape, facts.metric) == ("torch", (3,), 1.0)
    assert facts.counts == {"calibration_a": 64, "calibration_b": 64, "test": 64, "train": 64}
    assert len(set(facts.digests.values())) == 4
    assert any("only 64 samples" in note for note in facts.notes)


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        ((('"calibration_b": 2', '"calibration_b": 1'),), "calibration_a.*calibration_b.*share 64"),
        ((('"calibration_b": 2', '"calibration_b": 3'),), "calibration_b.*test.*share 64"),
        ((('"train": 0', '"train": 3'),), "train.*test.*share 64"),
        ((("(64, 4)", "(8, 4)"),), "at least 16 are needed"),
        ((('["a", "b", "c"]', '["a", "b"]'),), "names 2 classes"),
        ((("argmax(axis=1)\n\ndef", "argmax(axis=1) + 9\n\ndef"),), "label 11"),
    ],
)
def test_sets_and_labels_must_fit(
    write: Writer, torch_source: str, swap: tuple[tuple[str, str], ...], words: str
) -> None:
    folder = write(*swap, extra=torch_source)
    with pytest.raises(WorkloadError, match=words):
        check.validate(workload.load(folder))


def test_outputs_that_are_not_finite_are_refused(write: Writer, torch_source: str) -> None:
    broken = torch_source.replace("bias.zero_()", "bias.fill_(float('nan'))")
    with pytest.raises(WorkloadError, match="NaN or infinity for 64 of 64"):
        check.validate(workload.load(write(extra=broken)))


def test_a_corrupt_checkpoint_is_said(write: Writer) -> None:
    extra = """
    files = ["weights.safetensors"]

    def source():
        from pathlib import Path
        from safetensors.torch import load_file

        return load_file(Path(__file__).with_name("weights.safetensors"))
    """
    folder = write(extra=extra)
    (folder / "weights.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(WorkloadError, match=r"source\(\) failed: SafetensorError"):
        check.validate(workload.load(folder))


def test_a_model_that_does_not_take_the_inputs_is_said(write: Writer, torch_source: str) -> None:
    wrong = torch_source.replace("Linear(4, 3)", "Linear(5, 3)").replace("eye(3, 4)", "eye(3, 5)")
    with pytest.raises(WorkloadError, match="running the model failed"):
        check.validate(workload.load(write(extra=wrong)))


def test_a_file_that_is_not_onnx_is_said(write: Writer) -> None:
    folder = write(("return Model()", "return 'model.onnx'"), extra='files = ["model.onnx"]')
    (folder / "model.onnx").write_bytes(b"no model at all")
    with pytest.raises(WorkloadError, match="not an ONNX file that onnxruntime can load"):
        check.validate(workload.load(folder))


@pytest.mark.parametrize("example", ["onnx_only"])
def test_the_shipped_onnx_example_is_valid(root: Path, example: str) -> None:
    facts = check.validate(workload.load(root / "controller" / "examples" / example))
    assert facts.source == "onnx"
    assert facts.metric > 0.8
    assert facts.notes == ("a file as source: it is quantized, but not pruned or distilled",)


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ("inputs", ""),
        ("inputs + 2.0 * (seed == 2)", "(mean -0.0"),
        ("inputs * (3.0 if seed == 2 else 1.0)", "standard deviation"),
        ("inputs + 0.1 * (seed == 2)", ""),
    ],
)
def test_calibration_sets_that_differ_are_noted(
    write: Writer, torch_source: str, moved: str, words: str
) -> None:
    swap = ("return inputs, inputs[:, :3].argmax(axis=1)",
            f"return ({moved}).astype(np.float32), inputs[:, :3].argmax(axis=1)")  # fmt: skip
    notes = check.validate(workload.load(write(swap, extra=torch_source))).notes
    said = [note for note in notes if "take both from what devices will see" in note]
    assert bool(said) == bool(words)
    assert all(words in note and "'calibration_b'" in note for note in said)


@pytest.mark.parametrize("split", ["calibration_a", "calibration_b", "test", "train"])
def test_a_sample_with_nan_is_named(write: Writer, torch_source: str, split: str) -> None:
    loaded = workload.load(write(extra=torch_source))
    inputs = loaded.data(split).inputs.astype("float32")
    check.check_numbers("w", split, inputs)
    inputs[7, 1] = float("nan")
    with pytest.raises(
        WorkloadError, match=rf"data\('{split}'\) holds NaN in sample 7 .*, 1 of 64"
    ):
        check.check_numbers("w", split, inputs)


def test_a_split_with_nan_is_refused_by_its_name(write: Writer, torch_source: str) -> None:
    folder = write(extra=torch_source)
    for file in folder.glob("*.py"):
        text = file.read_text()
        file.write_text(
            text
            + """

_clean = data


def data(split):
    inputs, labels = _clean(split)
    if split == "test":
        inputs = inputs.copy()
        inputs[3] = float("nan")
    return inputs, labels
"""
        )
    with pytest.raises(WorkloadError, match=r"data\('test'\) holds NaN in sample 3"):
        check.validate(workload.load(folder))
