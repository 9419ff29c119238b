"""The kernel probe: tiny graphs in every scheme, which tell a device's fast one in two seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from controller.compress import bundle
from controller.compress.graph.model import macs
from controller.compress.quantize import dynamic, ranges, static
from controller.compress.toolchains import litert
from controller.errors import FitError
from fitment.core.bundle import ProbeGraph

SCHEMES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "u8s8", "s8s8", "u8u8", "dynamic"),
    "litert": ("fp32", "s8s8"),
}
"""Schemes that can be told apart, by runtime."""

FORMATS: Mapping[str, str] = {"onnx": "onnx", "litert": "tflite"}

CONVOLUTIONS = ((3, 32, 28), (3, 64, 14), (3, 128, 7), (1, 64, 14))
"""Kernel, channels (in and out), input height and width."""
PRODUCT = (128, 10)
_SEED = 20261124


def build_probe_bundle(runtime: str, out: Path) -> bundle.BuiltBundle:
    """Make the probe bundle of a runtime below ``out``; the same bytes each time.

    Raises:
        FitError: there is no probe for this runtime.
    """
    if runtime not in SCHEMES:
        raise FitError(f"no probe for runtime '{runtime}'; there are: {', '.join(SCHEMES)}")
    graphs: dict[str, bytes] = {}
    probes: list[ProbeGraph] = []
    for kernel, model in kernels().items():
        for scheme in SCHEMES[runtime]:
            made = in_scheme(model, scheme)
            suffix, content = _written(made, runtime)
            path = f"{kernel.replace(':', '-')}-{scheme}{suffix}"
            graphs[path] = content
            probes.append(ProbeGraph(path=path, kernel=kernel, scheme=scheme, macs=macs(model)))
    return bundle.build_probe(runtime, FORMATS[runtime], graphs, tuple(probes), out)


def _written(model: onnx.ModelProto, runtime: str) -> tuple[str, bytes]:
    if runtime == "litert":
        return ".tflite", litert.convert(model)
    return ".onnx", model.SerializeToString(deterministic=True)


def kernels() -> dict[str, onnx.ModelProto]:
    """Float graphs by kernel signature."""
    made = {
        f"conv{size}x{size}:c{channels}:k{channels}:h{height}": _convolution(size, channels, height)
        for size, channels, height in CONVOLUTIONS
    }
    made[f"gemm:c{PRODUCT[0]}:k{PRODUCT[1]}"] = _product(*PRODUCT)
    return made


def in_scheme(model: onnx.ModelProto, scheme: str) -> onnx.ModelProto:
    """One of the float graphs in a scheme, with ranges of seeded inputs."""
    if scheme == "fp32":
        return model
    if scheme == "dynamic":
        return dynamic.quantize(model)
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    inputs = np.random.default_rng(_SEED).standard_normal((4, *shape[1:])).astype(np.float32)
    return static.quantize(model, ranges.collect(model, inputs), scheme=scheme)


def _convolution(size: int, channels: int, height: int) -> onnx.ModelProto:
    """Convolution and ReLU twice, so that an integer kernel meets another as in a network."""
    random = np.random.default_rng(_SEED + size * channels)
    nodes, initializers, source = [], [], "input"
    for index in range(2):
        spread = (2.0 / (channels * size * size)) ** 0.5
        weights = random.normal(0, spread, (channels, channels, size, size)).astype(np.float32)
        bias = random.normal(0, 0.1, channels).astype(np.float32)
        names = [f"w{index}", f"b{index}"]
        initializers += [
            numpy_helper.from_array(v, n) for v, n in zip((weights, bias), names, strict=True)
        ]
        nodes += [
            helper.make_node(
                "Conv", [source, *names], [f"c{index}"], name=f"conv{index}",
                pads=[size // 2] * 4, kernel_shape=[size, size],
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"),
        ]  # fmt: skip
        source = f"r{index}"
    shape = [1, channels, height, height]
    return _model(nodes, initializers, shape, source, shape)


def _product(cin: int, cout: int) -> onnx.ModelProto:
    random = np.random.default_rng(_SEED + cin)
    weights = random.normal(0, 0.1, (cout, cin)).astype(np.float32)
    bias = random.normal(0, 0.1, cout).astype(np.float32)
    tensors = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
    node = helper.make_node("Gemm", ["input", "w", "b"], ["output"], name="gemm", transB=1)
    return _model([node], tensors, [1, cin], "output", [1, cout])


def _model(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    source_shape: list[int],
    target: str,
    target_shape: list[int],
) -> onnx.ModelProto:
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, source_shape)
    output = helper.make_tensor_value_info(target, TensorProto.FLOAT, target_shape)
    graph = helper.make_graph(nodes, "probe", [source], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
