"""Models and clients for the tests of serving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper

from agent.jobs import RuntimeOptions, ServingOptions
from agent.workers.runtimes import registry
from agent.workers.serving import open_inference
from agent.workers.serving.service import Service
from fitment.core.bundle import BundleManifest
from fitment.oip import open_inference_pb2 as pb
from fitment.oip import open_inference_pb2_grpc as pb_grpc
from tests.integration import worker_models as models

MODELS = models.affine_models()
FLOAT, DYNAMIC, LITERT, LITERT_INT8 = MODELS[:4]
DATATYPES = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "int8": "INT8",
             "uint8": "UINT8", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}  # fmt: skip


def graph(
    *nodes: onnx.NodeProto, kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    inputs: tuple[Any, ...] = ("n", 4), outputs: tuple[Any, ...] = ("n", 4),
    weights: Sequence[onnx.TensorProto] = (),
) -> bytes:  # fmt: skip
    """An ONNX file from ``x`` to ``y``."""
    made = helper.make_graph(
        list(nodes), "graph",
        [helper.make_tensor_value_info("x", kinds[0], inputs)],
        [helper.make_tensor_value_info("y", kinds[1], outputs)],
        list(weights),
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def centred() -> bytes:
    """Each answer depends on the company: ``x - mean over the samples``."""
    return graph(
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    )


def largest() -> bytes:
    """One answer for all samples of a request: the largest of them."""
    node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1)
    return graph(node, outputs=(1, 4))


def passed_on(kind: int) -> bytes:
    """The input as it is, in another type than float."""
    return graph(helper.make_node("Identity", ["x"], ["y"]), kinds=(kind, kind))


def bundle(folder: Path, data: bytes, *, name: str = "own", inputs: Any = None) -> str:
    """A bundle of an ONNX file, with its own answers as goldens."""
    given = models.affine_inputs() if inputs is None else inputs
    session = registry.get("onnx").load(data, RuntimeOptions())
    outputs = np.concatenate([session.run([given[i : i + 1]])[0] for i in range(len(given))])
    manifest = BundleManifest(name=name, model="shoes", artifact="model.onnx")
    goldens = (given, outputs, outputs)
    return models.write_bundle(folder, manifest, data, goldens=goldens, tolerance=1e-3)


class Client:
    """The generated stub, a little shorter to call."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = pb_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, *arrays: np.ndarray, **changes: Any) -> Any:
        return self.stub.ModelInfer(request(*arrays, **changes), timeout=20)


def request(
    *arrays: np.ndarray, model: str = "shoes", version: str = "", name: str = "x",
    datatype: str = "", raw: bool = True, **changes: Any,
) -> Any:  # fmt: skip
    """A request, as a stock client builds it."""
    made = pb.ModelInferRequest(model_name=model, model_version=version, **changes)
    for array in arrays:
        item = made.inputs.add(
            name=name, datatype=datatype or DATATYPES[array.dtype.name], shape=array.shape
        )
        if raw:
            made.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
        else:
            field = {"FP32": "fp32_contents", "INT8": "int_contents", "INT64": "int64_contents",
                     "BOOL": "bool_contents"}[item.datatype]  # fmt: skip
            getattr(item.contents, field).extend(array.ravel().tolist())
    return made


def output(response: Any, index: int = 0) -> np.ndarray:
    """An output of a response, from raw or typed contents."""
    item = response.outputs[index]
    dtype = {known: name for name, known in DATATYPES.items()}[item.datatype]
    if response.raw_output_contents:
        values = np.frombuffer(response.raw_output_contents[index], dtype=dtype)
    else:
        fields = item.contents.ListFields()
        values = np.array(fields[0][1], dtype=dtype)
    return values.reshape(tuple(item.shape))


@contextlib.contextmanager
def offered(folder: Path, socket: Path, *, name: str = "shoes", **options: Any) -> Iterator[
    tuple[Service, Client]
]:  # fmt: skip
    """A service, and a client over its socket."""
    chosen = ServingOptions(grpc_socket=str(socket), **options)
    service = Service(str(folder), "", RuntimeOptions(), name=name, serving_options=chosen)
    server = open_inference.Server(service, chosen)
    client = Client(f"unix:{socket}")
    try:
        yield service, client
    finally:
        client.channel.close()
        server.close()
        service.close()
