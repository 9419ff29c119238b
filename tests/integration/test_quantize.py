"""The quantizer on the example's trained network, against onnxruntime's own as an oracle."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from controller.compress import calibration, execute
from controller.compress.quantize import bias, dynamic, ranges, static
from tests.integration import example_models
from tests.integration.example_models import Example


@pytest.fixture(scope="module")
def example() -> Example:
    return example_models.fashion_mnist()


@pytest.fixture(scope="module")
def reference(example: Example) -> Any:
    return answer(example.model, example)


def answer(model: onnx.ModelProto, example: Example) -> Any:
    return execute.outputs(model.SerializeToString(), "onnx", example.test)


def sqnr_db(reference: Any, found: Any) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum()))


@pytest.mark.parametrize(
    ("scheme", "calibrator"),
    [
        ("u8s8", "minmax"),
        ("s8s8", "minmax"),
        ("u8u8", "minmax"),
        ("u8s8", "percentile"),
        ("u8s8", "mse"),
        ("u8s8", "kl"),
    ],
)
def test_accuracy_survives_every_scheme_and_calibrator(
    example: Example, reference: Any, scheme: str, calibrator: str
) -> None:
    found = ranges.collect(example.model, example.calibration[:128], calibrator=calibrator)
    outputs = answer(static.quantize(example.model, found, scheme=scheme), example)
    agreement = float((outputs.argmax(1) == reference.argmax(1)).mean())
    fp32 = float((reference.argmax(1) == example.labels).mean())
    accuracy = float((outputs.argmax(1) == example.labels).mean())
    assert agreement >= 0.98
    assert abs(accuracy - fp32) <= 0.01


def test_every_convolution_becomes_an_integer_one(example: Example, tmp_path: Path) -> None:
    import onnxruntime

    found = ranges.collect(example.model, example.calibration[:64])
    quantized = static.quantize(example.model, found, scheme="u8s8")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimized = onnx.load(tmp_path / "optimized.onnx")
    kinds = collections.Counter(node.op_type for node in optimized.graph.node)
    assert kinds["QLinearConv"] == 6
    assert kinds["QGemm"] == 1
    assert not {"Conv", "Gemm", "Relu", "DequantizeLinear", "ReduceMean"} & set(kinds)
    assert kinds["QuantizeLinear"] == 1


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_our_quantizer_is_as_exact_as_the_runtimes_own(
    example: Example, reference: Any, scheme: str, tmp_path: Path
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(example.calibration[:64])

        def get_next(self) -> dict[str, Any] | None:
            item = next(self._rest, None)
            return None if item is None else {"images": item[None]}

    onnx.save(example.model, tmp_path / "float.onnx")
    unsigned = scheme == "u8s8"
    quantize_static(
        str(tmp_path / "float.onnx"), str(tmp_path / "theirs.onnx"), Reader(), per_channel=True,
        activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    found = ranges.collect(example.model, example.calibration[:64])
    ours = sqnr_db(reference, answer(static.quantize(example.model, found, scheme=scheme), example))
    theirs = sqnr_db(reference, answer(onnx.load(tmp_path / "theirs.onnx"), example))
    assert ours > theirs - 3.0
    assert ours > 30.0


def test_bias_correction_and_dynamic_keep_the_answers(example: Example, reference: Any) -> None:
    found = ranges.collect(example.model, example.calibration[:64])
    quantized = static.quantize(example.model, found, scheme="u8s8")
    corrected = bias.correct(example.model, quantized, example.calibration[:64])
    assert sqnr_db(reference, answer(corrected, example)) > 35.0
    outputs = answer(dynamic.quantize(example.model), example)
    assert (outputs.argmax(1) == reference.argmax(1)).mean() > 0.98


def test_a_darker_camera_is_told_from_chance_and_can_be_patched(example: Example) -> None:
    found = ranges.collect(example.model, example.calibration)
    quantized = static.quantize(example.model, found, scheme="u8s8")
    content = quantized.SerializeToString(deterministic=True)
    files = calibration.stem_patch(example.model, content, example.calibration)
    assert files is not None
    reference = files.manifest.input_reference

    def drift(inputs: Any) -> float:
        counted = calibration._counted(inputs, reference.low, reference.high)
        return calibration.drift(reference, counted)

    assert drift(example.test[:256]) < files.manifest.drift_band
    assert drift(np.rint(example.test[:256] * 127.5) / 255) > 2 * files.manifest.drift_band


def test_variants_are_timed_against_each_other(example: Example) -> None:
    found = ranges.collect(example.model, example.calibration[:32])
    quantized = static.quantize(example.model, found, scheme="u8s8")
    entries = {
        "fp32": (example.model.SerializeToString(), "onnx"),
        "u8s8": (quantized.SerializeToString(), "onnx"),
    }
    timings = execute.time_interleaved(entries, example.test[:4], rounds=5, runs=15)
    for timing in timings.values():
        assert timing.count == 150
        assert 0 < timing.p50_low_ms <= timing.p50_ms <= timing.p50_high_ms
        assert timing.p95_ms is not None
        assert timing.verdict.value in {"valid", "contended", "drifting"}
        assert bool(timing.reasons) == (timing.verdict.value != "valid")
