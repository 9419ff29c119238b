from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from controller.compress import execute
from controller.compress.passes import onnx_tidy
from controller.compress.quantize import ranges, static
from controller.compress.toolchains import litert
from controller.compress.toolchains.litert import layout
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net


def conv(size: int, **options: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net((4, 11, 9), seed=5)
        return net.model(net.conv("input", "y", 4, 4, size, **options), rank=4)

    return build


def pool(kind: str, **options: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net((4, 11, 9))
        return net.model(net.op(kind, ["input"], "y", **options), rank=4)

    return build


def single(kind: str, *constants: Any, rank: int = 4, **options: Any) -> Callable[[], Any]:
    def build() -> onnx.ModelProto:
        net = Net((4, 11, 9))
        names = [net.constant(f"c{i}", value) for i, value in enumerate(constants)]
        return net.model(net.op(kind, ["input", *names], "y", **options), rank=rank)

    return build


def turned() -> onnx.ModelProto:
    """Flatten of an image, back to another image by Reshape, Transpose, Squeeze at the end."""
    net = Net((4, 11, 9))
    x = net.op("Flatten", ["input"], "flat")
    x = net.op("Reshape", [x, net.constant("s", np.int64([-1, 3, 12, 11]))], "image")
    x = net.op("Transpose", [x], "swapped", perm=[0, 2, 3, 1])
    x = net.op("ReduceMean", [x], "mean", axes=[3], keepdims=1)
    return net.model(net.op("Squeeze", [x, net.constant("a", np.int64([3]))], "y"), rank=3)


def perceptron() -> onnx.ModelProto:
    net = Net((4,))
    x = net.op("MatMul", ["input", net.weights("w", (4, 6))], "product")
    x = net.op("Relu", [net.op("Add", [x, net.weights("b", (6,))], "sum")], "relu")
    x = net.op("LeakyRelu", [net.gemm(x, "gemm", 6, 3)], "leaky", alpha=0.2)
    return net.model(net.op("Tanh", [x], "y"))


def gated() -> onnx.ModelProto:
    """Squeeze-and-excitation: Sigmoid and a Mul that broadcasts over the image."""
    net = Net((4, 11, 9), seed=2)
    x = net.op("Relu", [net.conv("input", "conv", 4, 8)], "relu")
    s = net.op("GlobalAveragePool", [x], "mean")
    s = net.op("Sigmoid", [net.conv(s, "gate", 8, 8, 1)], "sigmoid")
    x = net.op("Mul", [x, s], "gated")
    return net.model(net.conv(x, "y", 8, 4, 1), rank=4)


EDGE = np.int64([0, 0, 1, 0, 0, 0, 2, 3])
FLOATS: list[tuple[str, Callable[[], onnx.ModelProto]]] = [
    ("chain", nets.chain),
    ("residual", nets.residual),
    ("perceptron", perceptron),
    ("gated", gated),
    ("turned", turned),
    ("same", conv(3)),
    ("same at stride 2 and odd size", conv(3, strides=[2, 2])),
    ("explicit at stride 2 and even size", conv(4, strides=[2, 2], pads=[1, 1, 1, 1])),
    ("valid", conv(3, pads=[0, 0, 0, 0])),
    ("lopsided", conv(3, pads=[2, 0, 0, 1])),
    ("dilated", conv(3, dilations=[2, 2], pads=[2, 2, 2, 2])),
    ("auto_pad upper", conv(4, auto_pad="SAME_UPPER")),
    ("depthwise", conv(3, group=4)),
    ("depthwise dilated", conv(3, group=4, dilations=[2, 2], pads=[2, 2, 2, 2])),
    ("max", pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2])),
    ("max padded", pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    ("max lopsided", pool("MaxPool", kernel_shape=[3, 3], pads=[0, 2, 0, 1])),
    ("average same", pool("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    (
        "average counts padding",
        pool("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    ),
    ("pad", single("Pad", EDGE)),
    ("add channel", single("Add", np.float32([1, 2, 3, 4]).reshape(4, 1, 1))),
    ("mul scalar", single("Mul", np.float32(2.5))),
    ("sub", single("Sub", np.ones((1, 4, 11, 9), np.float32))),
    ("relu6", single("Clip", np.float32(0), np.float32(6))),
    ("softmax over channels", single("Softmax", axis=1)),
    ("mean of channels", single("ReduceMean", axes=[1], keepdims=1)),
]


def shape_of(model: onnx.ModelProto) -> list[int]:
    return [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]


def to_nhwc(values: np.ndarray) -> np.ndarray:
    return values.transpose(layout.TO_NHWC) if values.ndim == 4 else values


@pytest.mark.parametrize(("name", "build"), FLOATS, ids=[name for name, _ in FLOATS])
def test_a_float_file_answers_as_onnxruntime_does(
    name: str, build: Callable[[], onnx.ModelProto]
) -> None:
    model = build()
    inputs = nets.images(shape_of(model), 5) - np.float32(0.2)
    expected = execute.outputs(model.SerializeToString(), "onnx", inputs)
    for batch in (1, 5):
        found = execute.outputs(litert.convert(model), "litert", inputs, batch=batch)
        np.testing.assert_allclose(found, to_nhwc(expected), atol=1e-4, rtol=1e-4)


def quantized(build: Callable[[], onnx.ModelProto], count: int = 64) -> tuple[Any, np.ndarray]:
    model = build()
    inputs = nets.images(shape_of(model), count)
    return static.quantize(model, ranges.collect(model, inputs), scheme="s8s8"), inputs


@pytest.mark.parametrize("build", [nets.chain, nets.residual, perceptron, gated])
def test_an_integer_file_answers_as_the_qdq_model_does(
    build: Callable[[], onnx.ModelProto],
) -> None:
    model, inputs = quantized(build)
    content = litert.convert(model)
    expected = to_nhwc(execute.outputs(model.SerializeToString(), "onnx", inputs))
    found = execute.outputs(content, "litert", inputs)
    step = np.ptp(expected) / 255
    assert np.abs(found - expected).max() <= 3.5 * step
    assert np.abs(found - expected).mean() <= step
    assert execute.integer_coverage(content, "litert") == 1.0
    assert execute.integer_coverage(litert.convert(build()), "litert") == 0.0


def operators(content: bytes) -> list[tuple[str, int]]:
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [(names[code.builtinCode], code.version) for code in model.operatorCodes]
    return [codes[op.opcodeIndex] for op in model.subgraphs[0].operators]


def test_pairs_are_folded_into_the_types_of_tensors() -> None:
    model, _ = quantized(nets.chain)
    assert operators(litert.convert(model)) == [
        ("QUANTIZE", 1), ("CONV_2D", 3), ("CONV_2D", 3), ("MAX_POOL_2D", 2), ("CONV_2D", 3),
        ("MEAN", 2), ("RESHAPE", 1), ("FULLY_CONNECTED", 4), ("DEQUANTIZE", 2),
    ]  # fmt: skip
    assert operators(litert.convert(nets.chain())) == [
        ("CONV_2D", 1), ("CONV_2D", 1), ("MAX_POOL_2D", 1), ("CONV_2D", 1),
        ("MEAN", 1), ("RESHAPE", 1), ("FULLY_CONNECTED", 1),
    ]  # fmt: skip


def test_integer_types_and_scales_are_what_litert_specifies() -> None:
    model, _ = quantized(nets.residual)
    graph = schema.ModelT.InitFromPackedBuf(litert.convert(model), 0).subgraphs[0]
    tensors = {tensor.name.decode(): tensor for tensor in graph.tensors}
    weights = next(t for n, t in tensors.items() if n.startswith("deep_weight"))
    assert weights.type == schema.TensorType.INT8
    assert list(weights.shape) == [1, 3, 3, 8]  # depthwise: channels last
    assert weights.quantization.quantizedDimension == 3
    assert len(weights.quantization.scale) == 8
    assert not np.any(weights.quantization.zeroPoint)
    assert {t.type for n, t in tensors.items() if "_bias" in n} == {schema.TensorType.INT32}


def test_island_of_float_operators_in_an_integer_file() -> None:
    """Softmax in the middle: dequantized before, quantized again behind."""
    net = Net((4, 11, 9), seed=3)
    x = net.op("Relu", [net.conv("input", "one", 4, 8)], "relu")
    x = net.op("Softmax", [x], "softmax", axis=1)
    build = lambda: net.model(net.conv(x, "y", 8, 4), rank=4)  # noqa: E731
    model = build()
    inputs = nets.images((4, 11, 9))
    made = static.quantize(model, ranges.collect(model, inputs), scheme="s8s8")
    content = litert.convert(made)
    assert [name for name, _ in operators(content)] == [
        "QUANTIZE", "CONV_2D", "DEQUANTIZE", "SOFTMAX", "QUANTIZE", "CONV_2D", "DEQUANTIZE",
    ]  # fmt: skip
    expected = to_nhwc(execute.outputs(made.SerializeToString(), "onnx", inputs))
    found = execute.outputs(content, "litert", inputs)
    assert np.abs(found - expected).max() <= 3.5 * np.ptp(expected) / 255


def test_a_file_is_the_same_each_time_and_has_a_signature() -> None:
    model, _ = quantized(nets.chain)
    content = litert.convert(model)
    assert content == litert.convert(model)
    assert content[4:8] == b"TFL3"
    signatures = Interpreter(model_content=content).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["input"], "outputs": ["gemm"]}}


def test_buffers_are_aligned() -> None:
    """Kernels read weights in place; an unaligned one crashes on some processors."""
    content = litert.convert(nets.residual())
    model = schema.Model.GetRootAs(content, 0)
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % 16 == 0


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (single("Erf"), "nothing is known of Erf 'y'"),
        (conv(3, group=2), "Conv 'y' has 2 groups"),
        (single("Clip", np.float32(0), np.float32(3)), "Clip 'y' has bounds other than"),
        (single("Softmax", axis=2), "not along the last"),
        (single("Pad", EDGE, np.float32(1)), "something else than zeros"),
        (
            pool("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 0, 0]),
            "averages with padding",
        ),
        (pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), "ceil_mode"),
    ],
)
def test_what_cannot_be_written_is_named(build: Callable[[], onnx.ModelProto], said: str) -> None:
    with pytest.raises(FitError, match=f"no LiteRT variant: .*{said}"):
        litert.convert(build())


def test_unsigned_models_are_refused_with_the_mend() -> None:
    inputs = nets.images((3, 12, 12))
    model = static.quantize(nets.chain(), ranges.collect(nets.chain(), inputs), scheme="u8s8")
    with pytest.raises(FitError, match="quantize with the scheme s8s8"):
        litert.convert(model)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        ((13, 13), (3, 3), (2, 2), (1, 1, 1, 1)),
        ((12, 12), (3, 3), (2, 2), (0, 0, 1, 1)),
        ((5, 5), (1, 1), (1, 1), (0, 0, 0, 0)),
    ],
)
def test_same_padding(size: Any, kernel: Any, stride: Any, pads: Any) -> None:
    assert layout.same_padding(size, kernel, stride, (1, 1)) == pads


def test_sizes_that_the_file_leaves_free_are_those_of_the_inputs() -> None:
    net = Net((3, 8, 8))
    hidden = net.op("Relu", [net.conv("input", "first", 3, 6)], "relu")
    hidden = net.op("Flatten", [net.op("GlobalAveragePool", [hidden], "pool")], "flat")
    model = net.model(net.gemm(hidden, "head", 6, 4))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "H", "W"
    with pytest.raises(FitError, match="export the model with fixed sizes"):
        litert.convert(model)
    inputs = np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32)
    sized = onnx_tidy.sized(model, inputs)
    assert dims[2].dim_param == "H"
    expected = execute.outputs(model.SerializeToString(), "onnx", inputs)
    found = execute.outputs(litert.convert(sized), "litert", inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
