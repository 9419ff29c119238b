"""Submit: hand a measurement, a kernel table or a calibration over to the gateway."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc

from agent.jobs import SubmitJob, SubmitResult
from agent.workers import child, gateway_client
from agent.workers.child import JobError
from fitment.v1 import gateway_pb2
from fitment.wire import codec

_MAX_OVERLAY_BYTES = 8 * 1024 * 1024  # a patch of scales and biases is kilobytes


def handle(job: SubmitJob) -> SubmitResult:
    """Send what the job holds; when it returns, the controller has stored it.

    Raises:
        JobError: ``empty``, ``overlay``, or what the server answered.
    """
    measured = job.measurement is not None or job.kernels is not None
    if not measured and job.calibration is None:
        raise JobError("empty", "the job holds nothing to submit", permanent=True)
    overlay = _read_overlay(job.overlay)
    with gateway_client.gateway(job.connection) as stub:
        try:
            if measured:
                stub.SubmitMeasurement(_measurement(job), timeout=gateway_client.CALL_TIMEOUT_S)
            if job.calibration is not None:
                stub.SubmitCalibration(
                    _calibration(job, overlay), timeout=gateway_client.CALL_TIMEOUT_S
                )
        except grpc.RpcError as error:
            raise gateway_client.job_error(error, "submitting to the controller") from error
    return SubmitResult()


def _measurement(job: SubmitJob) -> gateway_pb2.SubmitMeasurementRequest:
    request = gateway_pb2.SubmitMeasurementRequest(study=job.study)
    if job.measurement is not None:
        request.measurement.MergeFromString(codec.encode(job.measurement))
    if job.kernels is not None:
        request.kernels.MergeFromString(codec.encode(job.kernels))
    return request


def _calibration(job: SubmitJob, overlay: bytes) -> gateway_pb2.SubmitCalibrationRequest:
    request = gateway_pb2.SubmitCalibrationRequest(deployment=job.deployment, overlay=overlay)
    if job.calibration is not None:
        request.calibration.MergeFromString(codec.encode(job.calibration))
    return request


def _read_overlay(path: str) -> bytes:
    if not path:
        return b""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise JobError(
            "overlay", f"cannot read the overlay {path}: {error.strerror}", permanent=True
        ) from error
    if len(data) > _MAX_OVERLAY_BYTES:
        raise JobError(
            "overlay",
            f"the overlay {path} has {len(data)} bytes, at most {_MAX_OVERLAY_BYTES} are sent",
            permanent=True,
        )
    return data


if __name__ == "__main__":
    sys.exit(child.run("submit", handle))
