"""The Open Inference Protocol v2 over gRPC: a stock client works unchanged.

A model is named by its slot or by its own name, its version is the variant's digest. Errors are
gRPC's own codes, and each message says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from agent import durable
from agent.jobs import ServingOptions
from agent.workers.child import JobError
from agent.workers.runtimes.base import Array, Tensor
from agent.workers.serving import datatypes
from agent.workers.serving import served as serving
from agent.workers.serving.meter import Duration
from agent.workers.serving.served import Served
from agent.workers.serving.service import Service
from fitment import __version__
from fitment.core import digest
from fitment.oip import open_inference_pb2 as pb
from fitment.oip import open_inference_pb2_grpc as pb_grpc

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
RUNG_KEY: Final = "fitment-rung"
"""Trailing metadata of ModelMetadata: the rung of the slot's ladder that serves."""
_SPARE_THREADS: Final = 2  # for questions that do not wait for the model
_QUEUED_CALLS: Final = 32  # beyond the threads; further calls are refused by gRPC itself
_GRACE_S: Final = 5.0
_STATUS: Final[Mapping[str, grpc.StatusCode]] = {
    "model_unknown": grpc.StatusCode.NOT_FOUND,
    "version_unknown": grpc.StatusCode.NOT_FOUND,
    "input_mismatch": grpc.StatusCode.INVALID_ARGUMENT,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "out_of_memory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "cancelled": grpc.StatusCode.CANCELLED,
    "ending": grpc.StatusCode.UNAVAILABLE,
}
"""Error code -> status; INTERNAL for every other."""
_REFUSED: Final[Mapping[str, str]] = {
    # parameter of a request, an input or an output -> why it cannot be ignored
    "sequence_id": "the model keeps no state between requests",
    "shared_memory_region": "no memory is shared with clients: send the contents",
    "classification": "outputs are given as they are: sort them in the application",
}


class OpenInference(pb_grpc.GRPCInferenceServiceServicer):
    """The calls of the protocol."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """It answers, so it lives."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """The socket appears once a model is loaded and checked."""
        del request, context
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Whether that name and version is what serves."""
        del context
        with self._service.bound() as served:
            try:
                self._named(served, request.name, request.version)
            except JobError:
                return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Name, version and extensions."""
        del request, context
        return pb.ServerMetadataResponse(
            name="fitment-agent", version=__version__, extensions=["statistics"]
        )

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """What the model takes and gives."""
        return self._answer(context, lambda: self._metadata(request, context))

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """One inference."""
        return self._answer(context, lambda: self._infer(request, context))

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Counts and times since the model was loaded."""
        return self._answer(context, lambda: self._statistics(request))

    def _answer(self, context: grpc.ServicerContext, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except JobError as error:
            self._service.failed(error.code)
            context.set_code(_STATUS.get(error.code, grpc.StatusCode.INTERNAL))
            context.set_details(error.message)
            return None

    def _named(self, served: Served, name: str, version: str) -> str:
        """The name to answer under.

        Raises:
            JobError: ``model_unknown`` or ``version_unknown``.
        """
        names = self._service.names(served)
        if name not in names:
            raise JobError("model_unknown", f"no model '{name}' is served; there is {names[0]}")
        variant = served.loaded.bundle.variant
        if version not in ("", variant, digest.short(variant)):
            raise JobError(
                "version_unknown",
                f"'{name}' serves version {variant}, not {version}: leave the version out for "
                "whatever serves",
            )
        return name

    def _metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._service.bound() as served:
            manifest = served.loaded.bundle.manifest
            # The protocol has no field for it, and a field of our own would be another's.
            context.set_trailing_metadata(((RUNG_KEY, str(served.rung)),))
            return pb.ModelMetadataResponse(
                name=self._named(served, request.name, request.version),
                versions=[served.loaded.bundle.variant],
                platform=f"{manifest.runtime}_{manifest.format}",
                inputs=[_described(served, tensor) for tensor in served.inputs],
                outputs=[_described(served, tensor) for tensor in served.outputs],
            )

    def _infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._service.bound() as served:
            name = self._named(served, request.model_name, request.model_version)
            _refuse(request.parameters, "the request")
            wanted = _wanted(served, request.outputs)
            inputs = _inputs(served, request)

            def joined(future: futures.Future[Any]) -> None:
                if not context.add_callback(future.cancel):  # the call has ended already
                    future.cancel()

            done, outputs = self._service.infer(served, inputs, joined=joined)
            response = pb.ModelInferResponse(
                model_name=name, model_version=served.loaded.bundle.variant, id=request.id
            )
            response.parameters["batch"].int64_param = done.rows
            response.parameters["rung"].int64_param = served.rung
            raw = bool(request.raw_input_contents)
            for index in wanted:
                _put(response, served.outputs[index].name, outputs[index], raw=raw)
            return response

    def _statistics(self, request: Any) -> Any:
        with self._service.bound() as served:
            name = request.name or self._service.names(served)[0]
            self._named(served, name, request.version)
            counts = served.meter.counts()
            return pb.ModelStatisticsResponse(
                model_stats=[
                    pb.ModelStatistics(
                        name=name,
                        version=served.loaded.bundle.variant,
                        last_inference=counts.last_unix_ms,
                        inference_count=counts.samples,
                        execution_count=counts.runs,
                        inference_stats=pb.InferStatistics(
                            success=_duration(counts.success),
                            fail=_duration(counts.fail),
                            queue=_duration(counts.queue),
                            compute_infer=_duration(counts.infer),
                        ),
                        batch_stats=[
                            pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(taken))
                            for rows, taken in sorted(counts.batches.items())
                        ],
                    )
                ]
            )


class Server:
    """The listening side; its Unix socket is renamed into place when it accepts calls."""

    def __init__(self, service: Service, options: ServingOptions) -> None:
        """Listen.

        Raises:
            JobError: ``port_taken``.
        """
        self._path = Path(options.grpc_socket)
        threads = options.max_waiting + options.max_batch + _SPARE_THREADS
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads, thread_name_prefix="open-inference"),
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=threads + _QUEUED_CALLS,
        )
        add: Callable[..., None] = pb_grpc.add_GRPCInferenceServiceServicer_to_server
        add(OpenInference(service), self._server)
        temporary = self._path.with_name(self._path.name + ".new")
        durable.remove(temporary)
        self._server.add_insecure_port(f"unix:{temporary.absolute()}")
        self.port = None if options.port is None else self._listen(options.port)
        temporary.chmod(0o660)  # applications share a group with the agent
        self._server.start()
        durable.replace(temporary, self._path)

    def _listen(self, port: int) -> int:
        try:
            return int(self._server.add_insecure_port(f"{LOOPBACK}:{port}"))
        except RuntimeError as error:
            raise JobError(
                "port_taken", f"{LOOPBACK}:{port} cannot be listened on: choose another port",
                permanent=True,
            ) from error  # fmt: skip

    def close(self) -> None:
        """Take the name away, answer the calls that came, then end."""
        durable.remove(self._path)
        self._server.stop(_GRACE_S).wait()


def _described(served: Served, tensor: Tensor) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name,
        datatype=datatypes.of(tensor),
        shape=serving.offered_shape(served, tensor),
    )


def _refuse(parameters: Mapping[str, Any], where: str) -> None:
    """Refuse parameters that would change the answer; others are a client's own business."""
    for name, why in _REFUSED.items():
        if name in parameters:
            raise JobError("invalid", f"parameter '{name}' of {where}: {why}")


def _wanted(served: Served, requested: Iterable[Any]) -> Sequence[int]:
    """Positions of the outputs that are asked for; all when none is named."""
    names = [tensor.name for tensor in served.outputs]
    wanted = []
    for item in requested:
        _refuse(item.parameters, f"output '{item.name}'")
        if item.name not in names:
            raise _mismatch(f"no output '{item.name}'; there are {', '.join(names)}")
        wanted.append(names.index(item.name))
    return wanted or range(len(names))


def _inputs(served: Served, request: Any) -> list[Array]:
    """The request's arrays in the model's order."""
    names = [tensor.name for tensor in served.inputs]
    given = [item.name for item in request.inputs]
    if sorted(given) != sorted(names):
        raise _mismatch(f"the model takes the inputs {', '.join(names)}, got {', '.join(given)}")
    raw = request.raw_input_contents
    if raw and len(raw) != len(given):
        raise _mismatch(f"{len(raw)} raw contents for {len(given)} inputs: send one for each")
    arrays = {}
    for number, item in enumerate(request.inputs):
        _refuse(item.parameters, f"input '{item.name}'")
        tensor = served.inputs[names.index(item.name)]
        datatypes.check(tensor, item.datatype)
        serving.check_shape(served, tensor, item.shape)
        if raw and item.HasField("contents"):
            raise _mismatch(f"input '{item.name}' has raw and typed contents: send one of them")
        arrays[item.name] = (
            datatypes.from_bytes(item.name, item.datatype, item.shape, raw[number])
            if raw
            else _typed(item)
        )
    return [arrays[name] for name in names]


def _typed(item: Any) -> Array:
    field = datatypes.CONTENTS.get(item.datatype)
    if field is None:
        raise _mismatch(f"input '{item.name}' is {item.datatype}, which goes as raw contents only")
    values = getattr(item.contents, field)
    return datatypes.from_values(item.name, item.datatype, item.shape, values)


def _put(response: Any, name: str, values: Array, *, raw: bool) -> None:
    """An output, in the way that the inputs came."""
    output = response.outputs.add(name=name, datatype=datatypes.named(values), shape=values.shape)
    if raw:
        response.raw_output_contents.append(datatypes.to_bytes(values))
    else:
        field = getattr(output.contents, datatypes.CONTENTS[output.datatype])
        field.extend(datatypes.to_values(values))


def _duration(taken: Duration) -> Any:
    return pb.StatisticDuration(count=taken.count, ns=taken.ns)


def _mismatch(message: str) -> JobError:
    return JobError("input_mismatch", message, permanent=True)
