from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from controller.compress import execute
from controller.compress.graph import model as graphs
from controller.compress.quantize import bias, dynamic, numbers, ranges, static
from controller.compress.quantize.observers import Range
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net

CHAIN = (nets.chain, (3, 12, 12))
RESIDUAL = (nets.residual, (4, 13, 13))
Case = tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]


def made(case: Case, scheme: str, **options: object) -> tuple[onnx.ModelProto, np.ndarray]:
    build, shape = case
    inputs = nets.images(shape)
    found = ranges.collect(build(), inputs)
    return static.quantize(build(), found, scheme=scheme, **options), inputs  # type: ignore[arg-type]


def answer(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return execute.outputs(model.SerializeToString(), "onnx", inputs)


def sqnr_db(reference: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum()))


@pytest.mark.parametrize("scheme", sorted(static.ACTIVATION_TYPES))
@pytest.mark.parametrize("case", [CHAIN, RESIDUAL])
def test_a_quantized_network_answers_like_its_float_form(case: Case, scheme: str) -> None:
    quantized, inputs = made(case, scheme)
    reference, found = answer(case[0](), inputs), answer(quantized, inputs)
    assert sqnr_db(reference, found) > 24.0
    assert (reference.argmax(1) == found.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("case", [CHAIN, RESIDUAL])
def test_onnxruntime_fuses_every_heavy_layer_with_unsigned_activations(case: Case) -> None:
    quantized, _ = made(case, "u8s8")
    assert execute.integer_coverage(quantized.SerializeToString(), "onnx") == 1.0
    assert execute.integer_coverage(case[0]().SerializeToString(), "onnx") == 0.0


def test_the_form_of_what_is_written() -> None:
    quantized, _ = made(CHAIN, "u8s8")
    view = graphs.View(quantized)
    nodes = {node.name: node for node in quantized.graph.node}
    weights = view.producers[nodes["conv1"].input[1]]
    assert graphs.attributes(weights)["axis"] == 0
    stored = view.constant(weights.input[0])
    assert stored is not None
    assert (stored.dtype, stored.shape) == (np.int8, (8, 8, 3, 3))
    bias_reader = view.producers[nodes["conv1"].input[2]]
    bias_scale = view.constant(bias_reader.input[1])
    own = [
        view.constant(n)
        for n in (view.producers[nodes["conv1"].input[0]].input[1], weights.input[1])
    ]
    assert own[0] is not None
    assert own[1] is not None
    np.testing.assert_array_equal(bias_scale, (own[0] * own[1]).astype(np.float32))
    follower = view.only_consumer("conv1")
    assert follower is not None
    assert follower.op_type == "Relu"  # nothing is quantized between a layer and its ReLU


def test_each_scale_is_read_by_one_pair_alone() -> None:
    quantized, _ = made(RESIDUAL, "s8s8")
    view = graphs.View(quantized)
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            readers = [n.op_type for n in view.consumers[node.input[1]]]
            assert sorted(readers) == ["DequantizeLinear", "QuantizeLinear"]


@pytest.mark.parametrize(
    "tensors", [("relu1", "pool"), ("add_relu", "side_relu", "concat", "average", "flat")]
)
def test_what_passes_through_keeps_its_scale(tensors: tuple[str, ...]) -> None:
    case = CHAIN if "pool" in tensors else RESIDUAL
    quantized, _ = made(case, "s8s8")
    view = graphs.View(quantized)
    found = {float(numpy_helper.to_array(view.initializers[f"{t}_scale"])) for t in tensors}
    assert len(found) == 1


@pytest.mark.parametrize(("scheme", "last"), [("u8s8", "Gemm"), ("s8s8", "DequantizeLinear")])
def test_the_output_is_float_and_keeps_its_name(scheme: str, last: str) -> None:
    quantized, _ = made(CHAIN, scheme)
    assert quantized.graph.output[0].name == "gemm"
    assert quantized.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert graphs.View(quantized).producers["gemm"].op_type == last


def test_skipped_layers_stay_float() -> None:
    inputs = nets.images((3, 12, 12))
    found = ranges.collect(nets.chain(), inputs)
    done = static.quantize_listed(
        nets.chain(), found, scheme="u8s8", skip=frozenset({"conv0", "gemm"})
    )
    assert {"Conv 'conv0'", "Gemm 'gemm'"} <= set(done.left_float)
    assert execute.integer_coverage(done.model.SerializeToString(), "onnx") == 0.5
    everything = frozenset({"conv0", "conv1", "conv2", "gemm"})
    plain = static.quantize(nets.chain(), found, scheme="u8s8", skip=everything)
    assert not any("Quantize" in node.op_type for node in plain.graph.node)


def test_unknown_operators_stay_float_and_are_listed() -> None:
    net = Net((3, 8, 8))
    x = net.op("Softplus", [net.conv("input", "conv0", 3, 4)], "odd")
    x = net.op("Relu", [net.conv(x, "conv1", 4, 4)], "relu")
    model = net.model(net.op("GlobalAveragePool", [x], "y"), rank=4)
    inputs = nets.images((3, 8, 8))
    done = static.quantize_listed(model, ranges.collect(model, inputs), scheme="u8s8")
    assert done.left_float == ("Softplus 'odd'",)
    assert sqnr_db(answer(model, inputs), answer(done.model, inputs)) > 25


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_constant_operands_are_quantized_too(kind: str) -> None:
    net = Net((3, 8, 8), seed=4)
    x = net.op("Relu", [net.conv("input", "conv", 3, 4)], "relu")
    x = net.op(kind, [x, net.weights("c", (1, 4, 1, 1), 1.0)], "shifted")
    model = net.model(net.op("GlobalAveragePool", [x], "y"), rank=4)
    inputs = nets.images((3, 8, 8))
    quantized = static.quantize(model, ranges.collect(model, inputs), scheme="u8s8")
    assert sqnr_db(answer(model, inputs), answer(quantized, inputs)) > 25


def test_per_tensor_weights_have_one_scale() -> None:
    quantized, inputs = made(CHAIN, "u8s8", rules=numbers.Rules(per_channel=False))
    view = graphs.View(quantized)
    (conv,) = [n for n in quantized.graph.node if n.name == "conv1"]
    scale = view.constant(view.producers[conv.input[1]].input[1])
    assert scale is not None
    assert scale.shape == ()
    assert sqnr_db(answer(nets.chain(), inputs), answer(quantized, inputs)) > 22


@pytest.mark.parametrize(
    ("scheme", "found", "said"),
    [("u4", {}, "unknown scheme 'u4'"), ("u8s8", {"input": Range(low=0, high=1)}, "no range for")],
)
def test_what_cannot_be_quantized_is_named(scheme: str, found: dict[str, Range], said: str) -> None:
    with pytest.raises(FitError, match=said):
        static.quantize(nets.chain(), found, scheme=scheme)


def test_dynamic_weights_shrink_and_the_answer_stays() -> None:
    inputs = nets.images((3, 12, 12))
    small = dynamic.quantize(nets.chain())
    assert any(node.op_type == "ConvInteger" for node in small.graph.node)
    assert sqnr_db(answer(nets.chain(), inputs), answer(small, inputs)) > 22


def test_bias_correction_removes_a_planted_shift() -> None:
    quantized, inputs = made(CHAIN, "u8s8")
    broken = graphs.copied(quantized)
    (planted,) = [t for t in broken.graph.initializer if t.name == "conv1_bias_quantized"]
    values = numpy_helper.to_array(planted) + 4000
    planted.CopyFrom(numpy_helper.from_array(values.astype(np.int32), planted.name))
    before = broken.SerializeToString()
    mended = bias.correct(nets.chain(), broken, inputs)
    reference = answer(nets.chain(), inputs)
    gained = sqnr_db(reference, answer(mended, inputs)) - sqnr_db(reference, answer(broken, inputs))
    assert gained > 10.0
    assert broken.SerializeToString() == before


def exact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with weights that int8 holds exactly: what is lost is the activations'."""
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if values.ndim > 1:
            scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
            rounded = (np.rint(values / scale) * scale).astype(np.float32)
            item.CopyFrom(numpy_helper.from_array(rounded, item.name))
    return model


@pytest.mark.parametrize("case", [CHAIN, RESIDUAL])
def test_activations_of_sixteen_bits_lose_next_to_nothing(case: Case) -> None:
    build, shape = case
    case = (lambda: exact(build()), shape)
    eight, inputs = made(case, "s8s8")
    sixteen, _ = made(case, "s16s8")
    reference = answer(case[0](), inputs)
    assert sqnr_db(reference, answer(eight, inputs)) < 50.0
    assert sqnr_db(reference, answer(sixteen, inputs)) > 70.0
    assert graphs.opset(sixteen) == static.OPSET_INT16
    onnx.checker.check_model(sixteen)
    zero_points = {
        graphs.View(sixteen).constant(node.input[2]).dtype.name  # type: ignore[union-attr]
        for node in sixteen.graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert zero_points == {"int16"}


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8", "u8u8"])
def test_rules_of_scales_hold_in_the_file(scheme: str) -> None:
    rules = numbers.Rules(centred=True, power_of_two=True)
    quantized, inputs = made(RESIDUAL, scheme, rules=rules)
    view = graphs.View(quantized)
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero_point = (view.constant(name) for name in node.input[1:3])
            assert scale is not None
            assert zero_point is not None
            assert (np.frexp(scale)[0] == 0.5).all()
            assert set(zero_point.ravel().tolist()) == {128 if zero_point.dtype == np.uint8 else 0}
    reference = answer(RESIDUAL[0](), inputs)
    assert sqnr_db(reference, answer(quantized, inputs)) > 15.0
