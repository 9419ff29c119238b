"""What a runtime file takes and gives, read from the file itself."""

from __future__ import annotations

from typing import Any

from controller.catalog.foreign import translated
from controller.catalog.workload import Workload
from controller.errors import FitError
from fitment.core.bundle import IoSpec, TensorSpec


def io_spec(artifact: bytes, runtime: str, workload: Workload) -> IoSpec:
    """The io_spec of a variant of ``workload``.

    Raises:
        FitError: the runtime refuses the file, or it has not one input and one output.
    """
    read = {"onnx": _onnx, "litert": _litert}.get(runtime)
    if read is None:
        raise FitError(f"runtime '{runtime}' is not known; use onnx or litert")
    with translated(FitError, f"{runtime} refuses the artifact"):
        inputs, outputs = read(artifact)
    if len(inputs) != 1 or len(outputs) != 1:
        raise FitError(
            f"the artifact has {len(inputs)} inputs and {len(outputs)} outputs; one each is "
            "supported"
        )
    image = len(workload.input_shape) == 3
    channels_last = image and inputs[0].shape[1:] != workload.input_shape
    return IoSpec(
        inputs=inputs,
        outputs=outputs,
        layout=("NHWC" if channels_last else "NCHW") if image else "NC",
        preprocessing=workload.preprocessing,
        labels=workload.labels,
    )


def _onnx(artifact: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])

    def spec(value: Any) -> TensorSpec:
        kinds = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}
        if value.type not in kinds:
            raise FitError(f"'{value.name}' has the type {value.type}, which is not supported")
        shape = tuple(n if isinstance(n, int) else -1 for n in value.shape)
        return TensorSpec(name=value.name, dtype=kinds[value.type], shape=shape)

    return tuple(map(spec, session.get_inputs())), tuple(map(spec, session.get_outputs()))


def _litert(artifact: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=artifact, num_threads=1)

    def spec(value: dict[str, Any]) -> TensorSpec:
        scale, zero_point = value["quantization"]
        kind = value["dtype"].__name__
        quantized = kind in ("int8", "uint8") and scale != 0.0
        return TensorSpec(
            name=str(value["name"]),
            dtype=kind,
            shape=tuple(int(n) for n in value["shape_signature"]),
            scale=float(scale) if quantized else None,
            zero_point=int(zero_point) if quantized else None,
        )

    return (
        tuple(map(spec, interpreter.get_input_details())),
        tuple(map(spec, interpreter.get_output_details())),
    )
