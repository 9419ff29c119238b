"""From a service's descriptor to its handlers: policy before, catalogue after, every call.

A service is a table from method name to behaviour. The descriptor says how a method streams,
`policy` says who may call it, and a method without a row or without a behaviour does not
start, so nothing is served that nobody decided on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509
from google.protobuf import message_factory

from controller.errors import DiskFull, FitmentError, TrustError, UserError, is_disk_full
from controller.gateway import errors, policy
from fitment.v1 import gateway_pb2
from fitment.wire import codec, topics

log = logging.getLogger(__name__)

CODE_KEY = "fitment-code"
RETRY_KEY = "retry-after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who calls, and where an answer in parts is written."""

    device: str  # empty where anyone may call
    serial: str  # of its certificate, decimal
    context: Any

    async def send(self, message: Any) -> None:
        """Write one part of a streamed answer."""
        await self.context.write(message)


Behaviour = Callable[[Any, Call], Awaitable[Any]]
Check = Callable[[str, str], Awaitable[bool]]
"""(device, serial) -> whether this certificate is still good."""


def service(name: str, table: Mapping[str, Behaviour], check: Check) -> Any:
    """The generic handler of a service of ``gateway.proto``.

    Raises:
        LookupError: a method has no behaviour or no row in the policy, or a behaviour no method.
    """
    descriptor = gateway_pb2.DESCRIPTOR.services_by_name[name]
    methods = {method.name: method for method in descriptor.methods}
    if set(methods) != set(table):
        raise LookupError(f"{name}: methods and behaviours differ: {set(methods) ^ set(table)}")
    handlers = {}
    for method_name, method in methods.items():
        rule = policy.rule_for(f"/{descriptor.full_name}/{method_name}")
        if rule is None:
            raise LookupError(f"{descriptor.full_name}/{method_name} has no row in the policy")
        handlers[method_name] = _handler(method, _guarded(rule, table[method_name], check))
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _handler(method: Any, behaviour: Any) -> Any:
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    return kinds[method.client_streaming, method.server_streaming](
        behaviour,
        request_deserializer=request.FromString,
        response_serializer=response.SerializeToString,
    )


def _guarded(rule: policy.Rule, behaviour: Behaviour, check: Check) -> Any:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, await _caller(rule, context, check))
        except FitmentError as error:
            await _abort(context, error)
        except codec.WireError as error:
            await _abort(context, UserError(str(error)))
        except OSError as error:
            log.exception("action=call_failed")
            # Paths of this machine are nothing that a device needs to know.
            full = DiskFull("the controller's disk is full") if is_disk_full(error) else None
            await _abort(context, full or FitmentError())
        except grpc.aio.AbortError:
            raise
        except Exception:  # the outermost door: whatever else it is, the caller learns nothing
            log.exception("action=call_failed")
            await _abort(context, FitmentError())

    return guarded


async def _abort(context: Any, error: FitmentError) -> None:
    public = errors.public(error)
    trailing = [(CODE_KEY, public.code)]
    if public.retry_after_s is not None:
        trailing.append((RETRY_KEY, f"{public.retry_after_s:g}"))
    await context.abort(public.entry.grpc, public.text, tuple(trailing))


async def _caller(rule: policy.Rule, context: Any, check: Check) -> Call:
    if rule.caller is policy.Caller.ANYONE:
        return Call(device="", serial="", context=context)
    device, serial = identity(context.auth_context())
    if not await check(device, serial):
        raise TrustError(
            f"the certificate of '{device}' is not valid any more: it was revoked or replaced;"
            " enrol the device again with a new token"
        )
    return Call(device=device, serial=serial, context=context)


def identity(auth: Mapping[str, Any]) -> tuple[str, str]:
    """(device name, serial) of the certificate that TLS has already checked against our CA.

    Raises:
        TrustError: there is none, or its name is not a device's.
    """
    names = list(auth.get("x509_common_name", ()))
    pem = list(auth.get("x509_pem_cert", ()))
    if len(names) != 1 or not pem:
        raise TrustError("this call needs a device certificate")
    name = bytes(names[0]).decode(errors="replace")
    if not topics.valid_device_name(name):
        raise TrustError("the certificate's name is not a device's")
    return name, str(x509.load_pem_x509_certificate(pem[0]).serial_number)
