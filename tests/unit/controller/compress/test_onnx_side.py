"""Quantize, probe, predict, patch: the ONNX side, on small real networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from controller.compress import calibration, execute, predict, probe
from controller.compress.evidence import sqnr_db
from controller.compress.graph import model as graph_model
from controller.compress.quantize import bias, dynamic, ranges, static
from controller.errors import FitError
from fitment.core import digest
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import CostKind, Verdict

CONV = "conv3x3:c32:k32:h28"


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """Two convolutions with ReLU."""
    return probe.kernels()[CONV]


@pytest.fixture(scope="module")
def inputs() -> Any:
    return np.random.default_rng(3).standard_normal((8, 32, 28, 28)).astype(np.float32)


def outputs(model: onnx.ModelProto, inputs: Any) -> Any:
    return execute.outputs(model.SerializeToString(), "onnx", inputs)


def bias_of(model: onnx.ModelProto, node_name: str) -> onnx.TensorProto:
    """The int32 bias of a convolution, as it lies in the model."""
    view = graph_model.View(model)
    (node,) = [n for n in model.graph.node if n.name == node_name]
    return view.initializers[view.producers[node.input[2]].input[0]]


@pytest.mark.parametrize("scheme", sorted(static.ACTIVATION_TYPES))
def test_a_quantized_network_answers_like_its_float_form(
    network: onnx.ModelProto, inputs: Any, scheme: str
) -> None:
    quantized = static.quantize(network, ranges.collect(network, inputs), scheme=scheme)
    found = sqnr_db(outputs(network, inputs), outputs(quantized, inputs))
    assert found is not None
    assert found > 25.0


def test_every_convolution_runs_in_integers_with_unsigned_activations(
    network: onnx.ModelProto, inputs: Any
) -> None:
    quantized = static.quantize(network, ranges.collect(network, inputs), scheme="u8s8")
    assert execute.integer_coverage(quantized.SerializeToString(), "onnx") == 1.0
    assert execute.integer_coverage(network.SerializeToString(), "onnx") == 0.0


def test_our_quantizer_is_as_exact_as_the_runtimes_own(
    network: onnx.ModelProto, inputs: Any, tmp_path: Path
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            item = next(self._rest, None)
            return None if item is None else {"input": item[None]}

    onnx.save(network, tmp_path / "float.onnx")
    quantize_static(
        str(tmp_path / "float.onnx"), str(tmp_path / "theirs.onnx"), Reader(), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    ours = static.quantize(network, ranges.collect(network, inputs), scheme="u8s8")
    reference = outputs(network, inputs)
    theirs = sqnr_db(reference, outputs(onnx.load(tmp_path / "theirs.onnx"), inputs))
    mine = sqnr_db(reference, outputs(ours, inputs))
    assert theirs is not None
    assert mine is not None
    assert mine > theirs - 1.0


def test_dynamic_weights_shrink(network: onnx.ModelProto) -> None:
    assert dynamic.quantize(network).ByteSize() < 0.5 * network.ByteSize()


def test_bias_correction_removes_a_planted_shift(network: onnx.ModelProto, inputs: Any) -> None:
    quantized = static.quantize(network, ranges.collect(network, inputs), scheme="u8s8")
    broken = graph_model.copied(quantized)
    values = bias_of(broken, "conv1")
    array = onnx.numpy_helper.to_array(values) + 20_000
    values.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.int32), values.name))
    reference = outputs(network, inputs)
    mended = bias.correct(network, broken, inputs)
    before = sqnr_db(reference, outputs(broken, inputs)) or 0.0
    after = sqnr_db(reference, outputs(mended, inputs)) or 0.0
    assert after > before + 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scheme": "u4"}, "unknown scheme 'u4'"), ({"ranges": {}}, "range")],
)
def test_what_cannot_be_quantized_is_named(
    network: onnx.ModelProto, inputs: Any, change: dict[str, Any], message: str
) -> None:
    given = {"ranges": ranges.collect(network, inputs), "scheme": "u8s8"} | change
    with pytest.raises(FitError, match=message):
        static.quantize(network, given["ranges"], scheme=given["scheme"])


def test_a_probe_bundle_is_the_same_each_time_and_loads(tmp_path: Path) -> None:
    one = probe.build_probe_bundle("onnx", tmp_path / "one")
    other = probe.build_probe_bundle("onnx", tmp_path / "other")
    assert one.ref == other.ref
    assert len(one.manifest.probes) == 25
    for graph in one.manifest.probes[:5]:
        assert graph_model.load(one.folder / graph.path).graph.node
    with pytest.raises(FitError, match="no probe for runtime 'tpu'"):
        probe.build_probe_bundle("tpu", tmp_path)


def table(*timings: KernelTiming, emulated: bool = False) -> KernelTable:
    return KernelTable(
        runtime="onnx", runtime_version="1", hardware="h", stack="s", threads=1,
        verdict=Verdict.VALID, emulated=emulated, timings=timings,
    )  # fmt: skip


def timing(kernel: str, macs: int, p50_us: float, scheme: str = "fp32") -> KernelTiming:
    return KernelTiming(kernel=kernel, scheme=scheme, macs=macs, p50_us=p50_us, count=9)


def test_prediction_sums_layers_and_names_its_kind(network: onnx.ModelProto) -> None:
    layers = graph_model.layers(network)
    work = layers[0].macs
    exact = predict.predict(layers, table(timing(CONV, work, 100.0)), "fp32")
    assert exact.value == pytest.approx(0.2)
    assert exact.kind is CostKind.INTERPOLATED
    borrowed = predict.predict(layers, table(timing("gemm:c1:k1", work, 100.0)), "fp32")
    assert borrowed.kind is CostKind.ESTIMATED
    emulated = predict.predict(layers, table(timing(CONV, work, 1.0), emulated=True), "fp32")
    assert emulated.kind is CostKind.ESTIMATED
    with pytest.raises(FitError, match="no timing in scheme 'u8s8'"):
        predict.predict(layers, table(timing(CONV, work, 1.0)), "u8s8")


def test_prediction_interpolates_over_the_logarithm_of_work(network: onnx.ModelProto) -> None:
    layers = graph_model.layers(network)[:1]
    work = layers[0].macs
    found = predict.predict(
        layers, table(timing(CONV, work // 4, 10.0), timing(CONV, work * 4, 1000.0)), "fp32"
    )
    assert found.value == pytest.approx(0.1, rel=0.01)


def test_the_patch_manifest_points_at_the_stem(network: onnx.ModelProto, inputs: Any) -> None:
    quantized = static.quantize(network, ranges.collect(network, inputs), scheme="u8s8")
    content = quantized.SerializeToString()
    files = calibration.stem_patch(network, content, inputs)
    assert files is not None
    stem = files.manifest.stem
    assert stem is not None
    assert files.manifest.artifact_sha256 == digest.digest_bytes(content)
    place = stem.bias
    values = np.frombuffer(content, place.dtype, place.count, place.offset)
    assert np.array_equal(values, onnx.numpy_helper.to_array(bias_of(quantized, "conv0")))
    assert stem.input_scale.count == stem.input_zero_point.count == 1
    assert stem.weight_scale.count == stem.bias_scale.count == len(stem.mean) == 32
    probed = execute.outputs(files.probe_graph, "onnx", inputs)
    assert probed.mean(axis=(0, 2, 3)) == pytest.approx(stem.mean, abs=1e-4)
    assert probed.var(axis=(0, 2, 3)) == pytest.approx(stem.variance, rel=1e-3)


def test_a_network_without_a_convolution_has_nothing_to_patch() -> None:
    product = probe.kernels()["gemm:c128:k10"]
    inputs = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    quantized = static.quantize(product, ranges.collect(product, inputs), scheme="u8s8")
    assert calibration.stem_patch(product, quantized.SerializeToString(), inputs) is None
