"""Ask to be let in without a token: wait until an operator has compared codes and said yes.

Nothing vouches for the controller at first. So the device keeps to the certificate authority that
it saw when it first asked, and shows a code that covers it and its own key; the operator sees the
controller's code of the same two. Where somebody stands between them, the codes differ.
"""

from __future__ import annotations

import json
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import durable
from agent.jobs import EnrollJob
from agent.workers import first_contact, gateway_client, keys
from agent.workers.child import JobError
from fitment.core import admission
from fitment.core import digest as digests
from fitment.v1 import gateway_pb2

PENDING = "pending"
"""Code of the failure that says to ask again."""
_ASKED = "applying.json"  # beside the keys: whom it asks, and the authority that it saw first


def ask(
    job: EnrollJob, folder: Path
) -> tuple[gateway_pb2.AdmitResponse, ec.EllipticCurvePrivateKey]:
    """What the controller says to a device that it lets in.

    Raises:
        JobError: ``pending`` with the code to compare, ``wrong_ca`` where another controller
            answers than at first, ``unsupported``, ``refused``, ``conflict``, ``busy``,
            ``unavailable``.
    """
    keys.ensure_folder(folder)
    key = keys.ensure_key(folder)
    ca_pem, authority = _same_controller(job.controller, folder)
    code = admission.code(_hash(key), authority)
    request = gateway_pb2.ApplyRequest(device=job.device, csr_pem=keys.make_csr(key, job.device))
    with gateway_client.enroll(job.controller, ca_pem) as stub:
        try:
            answer: gateway_pb2.ApplyResponse = stub.Apply(
                request, timeout=gateway_client.CALL_TIMEOUT_S
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise JobError(
                    "unsupported",
                    f"the controller at {job.controller} lets devices in by token only: ask its"
                    " operator for one (fitment token create)",
                    permanent=True,
                ) from error
            raise gateway_client.job_error(error, f"asking at {job.controller}") from error
    if not answer.HasField("admitted"):
        raise JobError(
            PENDING,
            f"'{answer.device}' waits for an operator, with the code {code}; there:"
            f" fitment device pending, and where the codes are the same: fitment device approve"
            f" {answer.device}",
            retry_after_s=answer.poll_after_s,
        )
    first_contact.check_ca(answer.admitted.ca_pem, authority, "what the controller sent")
    return answer.admitted, key


def done(folder: Path) -> None:
    """Forget whom it asked; safe where it asked nobody."""
    durable.remove(folder / _ASKED)


def _same_controller(address: str, folder: Path) -> tuple[bytes, str]:
    """The authority that was seen when this address was first asked."""
    path = folder / _ASKED
    try:
        asked = json.loads(path.read_bytes())
        known = str(asked["authority"]) if asked["controller"] == address else ""
    except (OSError, ValueError, KeyError, TypeError):
        known = ""
    if known:
        try:
            return first_contact.find_ca(address, known), known
        except JobError as error:
            if error.code != "wrong_ca":
                raise
            raise JobError(
                "wrong_ca",
                f"another controller answers at {address} than the one that was asked first; where"
                f" that is right, delete {path} and ask again",
                permanent=True,
            ) from error
    ca_pem, authority = first_contact.shown_ca(address)
    record = {"controller": address, "authority": authority}
    keys.write_private(path, json.dumps(record).encode())
    return ca_pem, authority


def _hash(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return digests.digest_bytes(der)
