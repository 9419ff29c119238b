"""Models put together from layers of chosen widths, and what a layer alone does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from controller.compress.graph import model as graphs
from controller.compress.quantize import ranges, sensitivity, widths
from controller.compress.quantize.widths import FLOAT, WHOLE, Composer
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets

INPUTS = nets.images((3, 12, 12), count=48)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return nets.chain()


@pytest.fixture(scope="module")
def composer(model: onnx.ModelProto) -> Composer:
    return Composer(model, ranges.collect(model, INPUTS), INPUTS[:24], scheme="u8s8")


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights as they lie in the file: int8 behind a DequantizeLinear, or float."""
    view = graphs.View(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            reader = view.producers.get(node.input[1])
            values = view.constant(node.input[1] if reader is None else reader.input[0])
            assert values is not None
            found[node.name] = values
    return found


def test_every_layer_has_the_width_that_was_asked_for(composer: Composer) -> None:
    assert composer.layers == ("conv0", "conv1", "conv2", "gemm")
    chosen = {"conv0": FLOAT, "conv1": 3.0, "conv2": widths.FEW[1], "gemm": WHOLE}
    found = stored(composer.model(chosen))
    assert found["conv0"].dtype == np.float32
    assert found["conv1"].dtype == found["gemm"].dtype == np.int8
    assert len(np.unique(found["conv1"])) <= 7
    assert len(np.unique(found["conv2"])) == 5  # 2.585 bits
    assert np.abs(found["gemm"].astype(int)).max() > 31


def test_all_layers_must_be_named_and_known(composer: Composer) -> None:
    with pytest.raises(FitError, match="gemm"):
        composer.model(dict.fromkeys(composer.layers[:3], WHOLE))
    assert composer.all_at(3.0, edges=WHOLE) == {
        "conv0": WHOLE, "conv1": 3.0, "conv2": 3.0, "gemm": WHOLE,
    }  # fmt: skip


def test_unsigned_weights_have_no_few_levels(model: onnx.ModelProto) -> None:
    with pytest.raises(FitError, match="symmetric"):
        Composer(model, ranges.collect(model, INPUTS), INPUTS, scheme="u8u8")


def test_fewer_levels_take_fewer_bytes(composer: Composer) -> None:
    sizes = [composer.wire_bytes("conv2", bits) for bits in (2.0, 3.0, 4.0, WHOLE, FLOAT)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.4 * sizes[3]
    together = composer.joint_bytes(composer.all_at(3.0))
    assert 0 < together < composer.joint_bytes(composer.all_at(WHOLE))


def test_layers_at_one_tensor_are_a_group(composer: Composer) -> None:
    found = composer.groups()
    assert {frozenset({name}) for name in composer.layers} <= set(found)
    assert frozenset({"conv0", "conv1"}) in found
    assert frozenset({"conv0", "conv2"}) not in found


def test_a_layer_alone_does_more_harm_with_fewer_bits(
    composer: Composer, model: onnx.ModelProto
) -> None:
    effects = sensitivity.measure(composer, model, INPUTS[24:], widths=(FLOAT, WHOLE, 4.0, 2.0))
    for layer in composer.layers:
        at = effects[layer]
        assert at[FLOAT].noise == 0.0
        assert at[FLOAT].agreement == 1.0
        assert 0 < at[WHOLE].noise < at[4.0].noise < at[2.0].noise
        assert at[WHOLE].sqnr_db > 25.0


def test_noise_that_is_not_finite_is_infinite() -> None:
    reference = np.ones((2, 3), np.float32)
    assert sensitivity.noise(reference, reference) == 0.0
    assert sensitivity.noise(reference, np.full((2, 3), np.nan, np.float32)) == float("inf")
    assert sensitivity.by_input(reference, reference * [[1], [2]]).tolist() == [0.0, 3.0]
