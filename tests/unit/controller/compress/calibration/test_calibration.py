from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from controller.compress import calibration, execute
from controller.compress.graph import model as graphs
from controller.compress.quantize import ranges, static
from controller.errors import FitError
from fitment.core import digest
from fitment.core.patch import PatchManifest, Place, StemPatch
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net

INPUTS = nets.images((3, 12, 12), 96)


def quantized(
    build: Callable[[], onnx.ModelProto], inputs: np.ndarray, scheme: str = "u8s8"
) -> bytes:
    found = ranges.collect(build(), inputs)
    made = static.quantize(build(), found, scheme=scheme)
    content: bytes = made.SerializeToString(deterministic=True)
    return content


def patched(scheme: str = "u8s8") -> tuple[bytes, calibration.PatchFiles, StemPatch]:
    content = quantized(nets.chain, INPUTS, scheme)
    files = calibration.stem_patch(nets.chain(), content, INPUTS)
    assert files is not None
    assert files.manifest.stem is not None
    return content, files, files.manifest.stem


def read(content: bytes, place: Place) -> np.ndarray:
    return np.frombuffer(content, place.dtype, place.count, place.offset)


@pytest.mark.parametrize(("scheme", "dtype"), [("u8s8", "uint8"), ("s8s8", "int8")])
def test_places_hold_the_stems_numbers(scheme: str, dtype: str) -> None:
    content, files, stem = patched(scheme)
    assert files.manifest.artifact_sha256 == digest.digest_bytes(content)
    assert stem.input_zero_point.dtype == dtype
    counts = [p.count for p in (stem.input_scale, stem.input_zero_point)]
    assert counts == [1, 1]
    assert stem.weight_scale.count == stem.bias.count == stem.bias_scale.count == 8
    input_scale = read(content, stem.input_scale)[0]
    assert input_scale == pytest.approx(INPUTS.max() / 255, rel=1e-5)
    np.testing.assert_array_equal(
        read(content, stem.bias_scale), input_scale * read(content, stem.weight_scale)
    )
    view = graphs.View(nets.chain())
    real = numpy_helper.to_array(view.initializers["conv0_b"])
    stored = read(content, stem.bias) * read(content, stem.bias_scale)
    np.testing.assert_allclose(stored, real, atol=1e-4)
    (own,) = files.manifest.ranges
    assert own.scale == stem.input_scale
    assert (own.low, own.high) == (0.0, float(INPUTS.max()))


def test_written_bytes_change_what_the_model_reads() -> None:
    """Twice the input scale and half the weight scales undo inputs of twice the size."""
    content, _, stem = patched()
    changed = bytearray(content)
    for place, factor in ((stem.input_scale, 2.0), (stem.weight_scale, 0.5)):
        values = (factor * read(content, place)).astype(place.dtype)
        changed[place.offset : place.offset + values.nbytes] = values.tobytes()
    expected = execute.outputs(content, "onnx", INPUTS)
    found = execute.outputs(bytes(changed), "onnx", 2 * INPUTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(execute.outputs(content, "onnx", 2 * INPUTS) - expected).max() > 0.1


def test_the_probe_gives_the_reference_moments() -> None:
    _, files, stem = patched()
    found = execute.outputs(files.probe_graph, "onnx", INPUTS)
    assert found.shape[1] == 8
    assert found.min() < 0  # before the ReLU
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), stem.mean, atol=1e-5)
    np.testing.assert_allclose(found.var(axis=(0, 2, 3)), stem.variance, rtol=1e-4)


def test_the_reference_histogram_and_the_band() -> None:
    _, files, _ = patched()
    reference = files.manifest.input_reference
    assert (reference.low, reference.high) == (float(INPUTS.min()), float(INPUTS.max()))
    assert reference.total == INPUTS.size

    def drift(inputs: np.ndarray) -> float:
        counted = calibration._counted(inputs, reference.low, reference.high)
        return calibration.drift(reference, counted)

    assert drift(INPUTS) == 0.0
    assert drift(nets.images((3, 12, 12), 64, seed=77)) < files.manifest.drift_band
    assert drift(INPUTS * np.float32(0.5)) > files.manifest.drift_band


def test_drift_is_the_distance_of_quantiles_over_the_range() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(0.5, 0.1, 50_000), random.normal(0.55, 0.05, 50_000)
    histograms = [calibration._counted(v, 0.0, 2.0) for v in (one, other)]
    expected = np.abs(np.sort(one) - np.sort(other)).mean() / 2.0
    assert calibration.drift(*histograms) == pytest.approx(expected, abs=1e-3)
    wider = calibration._counted(one, 0.0, 3.0)
    with pytest.raises(FitError, match="different edges"):
        calibration.drift(histograms[0], wider)


def test_a_manifest_survives_the_wire() -> None:
    import json

    from fitment.core import plain

    _, files, _ = patched()
    stored = json.loads(digest.canonical(files.manifest))
    assert plain.from_plain(PatchManifest, stored) == files.manifest


def first_is_a_product() -> onnx.ModelProto:
    net = Net((6,))
    return net.model(net.gemm("input", "y", 6, 4))


def input_is_read_twice() -> onnx.ModelProto:
    net = Net((4, 6, 6))
    x = net.op("Add", [net.conv("input", "conv", 4, 4), "input"], "sum")
    return net.model(net.conv(x, "y", 4, 2), rank=4)


def input_is_prepared() -> onnx.ModelProto:
    net = Net((4, 6, 6))
    x = net.op("Mul", ["input", net.constant("k", np.float32(0.5))], "scaled")
    return net.model(net.conv(x, "y", 4, 2), rank=4)


@pytest.mark.parametrize("build", [first_is_a_product, input_is_read_twice, input_is_prepared])
def test_what_cannot_be_patched_safely_has_no_manifest(
    build: Callable[[], onnx.ModelProto],
) -> None:
    shape = [d.dim_value for d in build().graph.input[0].type.tensor_type.shape.dim][1:]
    inputs = nets.images(shape)
    assert calibration.stem_patch(build(), quantized(build, inputs), inputs) is None


def test_float_files_have_nothing_to_patch_and_other_files_are_refused() -> None:
    plain_bytes = nets.chain().SerializeToString()
    assert calibration.stem_patch(nets.chain(), plain_bytes, INPUTS) is None
    with pytest.raises(FitError, match="only ONNX files"):
        calibration.stem_patch(nets.chain(), b"\x1c\0\0\0TFL3" * 9, INPUTS)
    with pytest.raises(FitError, match="needs reference inputs"):
        calibration.stem_patch(nets.chain(), plain_bytes, INPUTS[:0])
