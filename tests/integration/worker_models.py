"""Tiny real models and bundles for the tests of the workers: onnx, tflite and in-memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from agent.jobs import RuntimeOptions
from agent.workers.runtimes import registry
from agent.workers.shift import histogram
from agent.workers.texture import texture
from controller.compress import calibration as fit
from fitment.core import digest
from fitment.core.bundle import BundleManifest, FileEntry, GoldenSpec, ProbeGraph
from fitment.core.patch import PatchManifest, Place, RangePlace, StemPatch

WEIGHT = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
BIAS = np.array([0.1, -0.2, 0.3], dtype=np.float32)
INPUT_SCALE, INPUT_ZERO = 0.04, 3
OUTPUT_SCALE, OUTPUT_ZERO = 0.1, -2


@dataclass(frozen=True)
class Affine:
    """One ``y = W x + b`` in the format of one runtime."""

    runtime: str
    format: str
    name: str
    data: bytes
    tolerance: float
    coverage: float | None


def affine_models() -> tuple[Affine, ...]:
    return (
        Affine("onnx", "onnx", "float", onnx_affine(), 1e-5, 0.0),
        Affine("onnx", "onnx", "dynamic", onnx_dynamic(), 0.1, 1.0),
        Affine("litert", "tflite", "float", tflite_affine(int8=False), 1e-5, 0.0),
        Affine("litert", "tflite", "int8", tflite_affine(int8=True), 0.2, 1.0),
        Affine("memory", "json", "float", memory_affine(), 1e-5, 0.0),
        Affine("memory", "json", "int8", memory_affine(int8=True), 0.2, 1.0),
    )


def onnx_affine() -> bytes:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    weights = {"w": WEIGHT, "b": BIAS}
    return _onnx(nodes, weights, inputs=["n", 4], outputs=["n", 3])


def onnx_dynamic() -> bytes:
    """Int8 weights, input quantized at run time: ``MatMulInteger``."""
    scale = np.float32(np.abs(WEIGHT).max() / 127)
    stored = np.rint(WEIGHT.T / scale).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["k"]),
        helper.make_node("Mul", ["f", "k"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    weights = {"w": stored, "ws": scale, "b": BIAS}
    return _onnx(nodes, weights, inputs=["n", 4], outputs=["n", 3])


def onnx_scaled(scale: float) -> bytes:
    """The same by a convolution and a factor, which onnxruntime folds into it (ConvMulFusion).

    Where it does not, the last bits of the answers are others.
    """
    factor = np.float32(scale)
    nodes = [
        helper.make_node("Reshape", ["x", "four"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Mul", ["c", "f"], ["u"]),
        helper.make_node("Add", ["u", "b"], ["a"]),
        helper.make_node("Reshape", ["a", "two"], ["y"]),
    ]
    weights = {
        "four": np.array([-1, 4, 1, 1], dtype=np.int64), "two": np.array([-1, 3], dtype=np.int64),
        "w": (WEIGHT / factor).astype(np.float32).reshape(3, 4, 1, 1),
        "f": np.full((1, 3, 1, 1), factor, dtype=np.float32), "b": BIAS.reshape(1, 3, 1, 1),
    }  # fmt: skip
    return _onnx(nodes, weights, inputs=["n", 4], outputs=["n", 3])


def onnx_int8_io() -> bytes:
    """An identity on int8: its file tells no scale."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return _onnx(nodes, {}, inputs=["n", 4], outputs=["n", 4], kind=TensorProto.INT8)


def tflite_affine(*, int8: bool) -> bytes:
    """One FULLY_CONNECTED, written with the schema's object API."""
    model = schema.ModelT()
    model.version, model.description = 3, "affine"
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4 if int8 else 1
    model.operatorCodes = [code]
    scale = float(np.abs(WEIGHT).max() / 127)
    bias_scale = INPUT_SCALE * scale
    arrays: list[np.ndarray | None]
    if int8:
        kinds = [schema.TensorType.INT8] * 2 + [schema.TensorType.INT32, schema.TensorType.INT8]
        stored = np.rint(WEIGHT / scale).astype(np.int8)
        arrays = [None, stored, np.rint(BIAS / bias_scale).astype(np.int32)]
    else:
        kinds = [schema.TensorType.FLOAT32] * 4
        arrays = [None, WEIGHT, BIAS]
    scales = [(INPUT_SCALE, INPUT_ZERO), (scale, 0), (bias_scale, 0), (OUTPUT_SCALE, OUTPUT_ZERO)]
    shapes, buffers = [(1, 4), (3, 4), (3,), (1, 3)], [0, 1, 2, 0]
    tensors = []
    for name, shape, kind, buffer, (s, z) in zip(
        "xwby", shapes, kinds, buffers, scales, strict=True
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
        if int8:
            quantization = schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = [s], [z]
            tensor.quantization = quantization
        tensors.append(tensor)
    model.buffers = [_buffer(array) for array in arrays]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [3], [operator]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def memory_affine(*, int8: bool = False) -> bytes:
    spec: dict[str, Any] = {
        "weight": WEIGHT.tolist(),
        "bias": BIAS.tolist(),
        "shape": [-1, 4],
        "coverage": 1.0 if int8 else 0.0,
    }
    if int8:
        spec["input"] = {"dtype": "int8", "scale": INPUT_SCALE, "zero_point": INPUT_ZERO}
        spec["output"] = {"dtype": "int8", "scale": OUTPUT_SCALE, "zero_point": OUTPUT_ZERO}
    return json.dumps(spec).encode()


def affine(inputs: np.ndarray) -> np.ndarray:
    """What all of them should say."""
    return (inputs @ WEIGHT.T + BIAS).astype(np.float32)


def affine_inputs(count: int = 16) -> np.ndarray:
    return np.random.default_rng(2).uniform(-1.5, 1.5, (count, 4)).astype(np.float32)


def write_bundle(
    folder: Path,
    manifest: BundleManifest,
    artifact: bytes,
    *,
    goldens: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    tolerance: float = 1e-4,
    files: Mapping[str, bytes] | None = None,
) -> str:
    """Write an unpacked bundle and give its variant digest. ``goldens``: inputs, own, fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    if manifest.artifact:
        (folder / manifest.artifact).write_bytes(artifact)
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
    golden = None
    if goldens is not None:
        names = ("golden_inputs.npy", "golden_outputs.npy", "golden_reference.npy")
        for name, array in zip(names, goldens, strict=True):
            np.save(folder / name, array)
        golden = GoldenSpec(
            inputs=names[0], outputs=names[1], reference=names[2], tolerance=tolerance
        )
    entries = tuple(
        FileEntry(
            path=path.name,
            sha256=digest.digest_bytes(path.read_bytes()),
            size=path.stat().st_size,
        )
        for path in sorted(folder.iterdir())
        if path.name != "bundle.json"
    )
    content = digest.canonical(replace(manifest, golden=golden, files=entries))
    (folder / "bundle.json").write_bytes(content)
    return digest.digest_bytes(content)


def affine_bundle(
    folder: Path, model: Affine, *, wrong: bool = False, tolerance: float = 1e-4
) -> str:
    """A bundle whose recorded answers come from the very runtime; ``wrong`` shifts them."""
    inputs = affine_inputs()
    session = registry.get(model.runtime).load(model.data, RuntimeOptions())
    batch = session.inputs[0].batch
    outputs = np.concatenate(
        [session.run([inputs[i : i + batch]])[0] for i in range(0, len(inputs), batch)]
    )
    manifest = BundleManifest(
        name=f"{model.name}-{model.runtime}",
        format=model.format,
        runtime=model.runtime,
        artifact=f"model.{model.format}",
    )
    reference = affine(inputs)
    recorded = outputs + 1.0 if wrong else outputs
    goldens = (inputs, recorded, reference)
    return write_bundle(folder, manifest, model.data, goldens=goldens, tolerance=tolerance)


def probe_bundle(folder: Path) -> str:
    """Two schemes of one kernel, and one graph that no runtime can load."""
    probes = tuple(
        ProbeGraph(path=f"{scheme}.onnx", kernel="gemm:c4:k3", scheme=scheme, macs=12)
        for scheme in ("fp32", "dynamic", "u8u8")
    )
    files = {"fp32.onnx": onnx_affine(), "dynamic.onnx": onnx_dynamic(), "u8u8.onnx": b"no model"}
    manifest = BundleManifest(kind="probe", name="probe-onnx", runtime="onnx", probes=probes)
    return write_bundle(folder, manifest, b"", files=files)


# --- a quantized network with a first layer that may be patched -------------------------------

SIZE, CHANNELS, CLASSES = 16, 8, 5


def pictures(count: int, seed: int) -> np.ndarray:
    """Dark pictures with a few bright soft blobs, ``[N, 1, 16, 16]`` in 0..1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    made = np.zeros((count, 1, SIZE, SIZE), dtype=np.float32)
    for picture in made:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.uniform(2, SIZE - 2, 2)
            width, light = rng.uniform(1.0, 3.0), rng.uniform(0.4, 1.0)
            blob = light * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
            picture[0] = np.maximum(picture[0], blob)
    return made


def _network(*, level: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``level`` of the biases; with none, a gain of the input changes no order of the outputs."""
    rng = np.random.default_rng(5)
    kernel = rng.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32) * 0.4
    bias = rng.normal(size=CHANNELS).astype(np.float32) * 0.1
    head = rng.normal(size=(CLASSES, CHANNELS * 7 * 7)).astype(np.float32) * 0.1
    head_bias = rng.normal(size=CLASSES).astype(np.float32) * 0.1
    return kernel, bias * np.float32(level), head, head_bias * np.float32(level)


def _tail(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MaxPool", [name], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["v"]),
        helper.make_node("Gemm", ["v", "head", "head_bias"], ["y"], transB=1),
    ]


def stem_fp32(*, level: float = 1.0) -> bytes:
    """From the input to the pre-activations of the first layer."""
    kernel, bias, _, _ = _network(level=level)
    nodes = [helper.make_node("Conv", ["x", "kernel", "bias"], ["y"])]
    size = SIZE - 2
    weights = {"kernel": kernel, "bias": bias}
    return _onnx(nodes, weights, inputs=["n", 1, SIZE, SIZE], outputs=["n", CHANNELS, size, size])


def network_fp32(*, level: float = 1.0) -> bytes:
    kernel, bias, head, head_bias = _network(level=level)
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        *_tail("r"),
    ]
    weights = {"kernel": kernel, "bias": bias, "head": head, "head_bias": head_bias}
    return _onnx(nodes, weights, inputs=["n", 1, SIZE, SIZE], outputs=["n", CLASSES])


def network_u8s8(
    reference: np.ndarray, *, level: float = 1.0, headroom: float = 1.0
) -> tuple[bytes, dict[str, Place]]:
    """The network in Q/DQ form, and where its first layer's numbers lie in the file.

    ``headroom``: of the hidden layer's range over what the reference needs.
    """
    kernel, bias, head, head_bias = _network(level=level)
    input_scale = np.float32(reference.max() / 255)
    weight_scale = (np.abs(kernel).reshape(CHANNELS, -1).max(axis=1) / 127).astype(np.float32)
    bias_scale = (input_scale * weight_scale).astype(np.float32)
    hidden = run(stem_fp32(level=level), reference)
    weights = {
        "x_scale": input_scale,
        "x_zero": np.uint8(0),
        "kernel_q": np.rint(kernel / weight_scale[:, None, None, None]).astype(np.int8),
        "kernel_scale": weight_scale,
        "kernel_zero": np.zeros(CHANNELS, dtype=np.int8),
        "bias_q": np.rint(bias / bias_scale).astype(np.int32),
        "bias_scale": bias_scale,
        "bias_zero": np.zeros(CHANNELS, dtype=np.int32),
        "r_scale": np.float32(headroom * hidden.max() / 255),
        "r_zero": np.uint8(0),
        "head": head,
        "head_bias": head_bias,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["xd"]),
        helper.make_node(
            "DequantizeLinear", ["kernel_q", "kernel_scale", "kernel_zero"], ["k"], axis=0
        ),
        helper.make_node("DequantizeLinear", ["bias_q", "bias_scale", "bias_zero"], ["b"], axis=0),
        helper.make_node("Conv", ["xd", "k", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "r_scale", "r_zero"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "r_scale", "r_zero"], ["rd"]),
        *_tail("rd"),
    ]
    data = _onnx(nodes, weights, inputs=["n", 1, SIZE, SIZE], outputs=["n", CLASSES])
    return data, {name: place(data, name) for name in weights}


def place(data: bytes, name: str) -> Place:
    """Where an initializer's bytes lie: its raw data is the last field of its message."""
    tensor = next(t for t in onnx.load_from_string(data).graph.initializer if t.name == name)
    encoded = tensor.SerializeToString()
    assert data.count(encoded) == 1
    array = numpy_helper.to_array(tensor)
    end = data.index(encoded) + len(encoded)
    return Place(offset=end - array.nbytes, dtype=array.dtype.name, count=array.size)


def network_bundle(
    folder: Path, *, calibration: bool = True, ranges: bool = False, level: float = 1.0,
    headroom: float = 1.0,
) -> str:  # fmt: skip
    """The quantized network as a bundle with a patch manifest."""
    reference = pictures(256, seed=11)
    data, places = network_u8s8(reference, level=level, headroom=headroom)
    hidden = run(stem_fp32(level=level), reference)
    stem = StemPatch(
        probe="stem.onnx",
        input_scale=places["x_scale"],
        input_zero_point=places["x_zero"],
        weight_scale=places["kernel_scale"],
        bias=places["bias_q"],
        bias_scale=places["bias_scale"],
        mean=tuple(hidden.mean(axis=(0, 2, 3)).tolist()),
        variance=tuple(hidden.var(axis=(0, 2, 3)).tolist()),
    )
    own_range = RangePlace(
        tensor="x",
        scale=places["x_scale"],
        zero_point=places["x_zero"],
        low=float(reference.min()),
        high=float(reference.max()),
    )
    patch = PatchManifest(
        artifact_sha256=digest.digest_bytes(data),
        input_reference=histogram(reference),
        texture=texture(reference),
        spread=fit.spread(reference),
        stem=stem,
        ranges=(own_range,) if ranges else (),
    )
    manifest = BundleManifest(
        name="int8-u8s8",
        runtime="onnx",
        scheme="u8s8",
        artifact="model.onnx",
        calibration="calibration.json" if calibration else "",
    )
    golden = reference[:24]
    goldens = (golden, run(data, golden), run(network_fp32(level=level), golden))
    files = {"stem.onnx": stem_fp32(level=level), "calibration.json": digest.canonical(patch)}
    return write_bundle(folder, manifest, data, goldens=goldens, tolerance=0.05, files=files)


def run(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """The first output, by onnxruntime."""
    return registry.get("onnx").load(model, RuntimeOptions()).run([inputs])[0]


def _buffer(array: np.ndarray | None) -> Any:
    made = schema.BufferT()
    if array is not None:
        made.data = np.frombuffer(array.tobytes(), dtype=np.uint8)
    return made


def _onnx(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, Any],
    *,
    inputs: list[Any],
    outputs: list[Any],
    kind: int = TensorProto.FLOAT,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, inputs)],
        [helper.make_tensor_value_info("y", kind, outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
