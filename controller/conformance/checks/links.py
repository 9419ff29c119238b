"""The link: presence, reports, commands, and what must not end it."""

from __future__ import annotations

from typing import Final

from controller.conformance.case import QUIET_S, Case
from controller.conformance.spec import Check, Fails, hold
from fitment.core import digest, plain
from fitment.core.deployment import DesiredState
from fitment.core.link import Downlink
from fitment.core.telemetry import CommandKind
from fitment.v1 import deployment_pb2
from fitment.wire import codec, topics

_FROM_THE_FUTURE: Final = b"\xc0\x3e\x01"  # field 1000, a varint: 1
_TRIES: Final = 3


def _presence(case: Case) -> str:
    case.ready()
    first = case.records.messages[0].uplink.presence
    hold(first is not None, "the first message is no presence")
    assert first is not None
    hold(first.online, "the first presence says offline")
    hold(first.boot_id, "its presence has no boot id")
    return f"online, boot id {first.boot_id}"


def _facets(case: Case) -> str:
    seen = case.ready().fingerprint
    facets = {
        "chassis": seen.chassis, "hardware": seen.hardware, "stack": seen.stack,
        "condition": seen.condition,
    }  # fmt: skip
    for name, facet in facets.items():
        hold(facet.hash == digest.digest_of(dict(facet.facts)), f"the hash of {name} is not that")
    hold(seen.hardware.facts.get("machine"), "the hardware facts name no machine")
    return f"four hashes that are their facts', machine {seen.hardware.facts['machine']}"


def _generation(case: Case) -> str:
    case.ready()
    wished = case.wish()
    case.sees(wished)
    return f"generation {wished} was observed"


def _report_command(case: Case) -> str:
    case.ready()
    case.answers()
    return "a report came"


def _report_within(case: Case, since: int, seconds: float) -> bool:
    return bool(case.records.wait(lambda: case.records.reports(since), seconds))


def _late_command(case: Case) -> str:
    """A report may come for reasons of its own, so one that comes each time is the answer."""
    case.ready()
    for _ in range(_TRIES):
        since = case.records.mark()
        case.command(CommandKind.REPORT, late=True)
        if not _report_within(case, since, QUIET_S):
            return f"nothing within {QUIET_S:g} s of a command past its deadline"
    raise Fails(f"it answered {_TRIES} commands of a minute past their deadline")


def _unknown_fields(case: Case) -> str:
    """In the message, in what it holds, and in the signed order."""
    case.ready()
    order = case.order(case.bundle())
    signed = case.sign(plain.to_plain(order) | {"of_a_later_version": {"n": 1}})
    desired = DesiredState(generation=case.next_generation(), assignments=(signed,))
    outer = deployment_pb2.Downlink.FromString(codec.encode(Downlink(desired=desired)))
    inner = outer.desired.SerializeToString() + _FROM_THE_FUTURE
    message = deployment_pb2.Downlink()
    message.desired.ParseFromString(inner)
    case.raw(topics.DESIRED, message.SerializeToString() + _FROM_THE_FUTURE)
    case.committed(order)
    return "an order with fields of a later version was committed"


def _garbage(case: Case) -> str:
    case.ready()
    strange = deployment_pb2.Downlink()
    strange.command.id = "c-strange"
    strange.command.kind = 99  # type: ignore[assignment]
    case.raw(topics.COMMAND, strange.SerializeToString())
    if case.wire.name == "mqtt":
        case.raw(topics.COMMAND, b"\xff\xfe no message at all")
    case.answers()
    return "what could not be read was passed over, and the next command answered"


def _reconnect(case: Case) -> str:
    case.ready()
    case.fresh()
    since = case.records.mark()
    case.cut()

    def back() -> bool:
        online = [p for p in case.records.presences(since) if p.online]
        return bool(online and case.records.reports(since))

    came = case.records.wait(back, case.within_s)
    hold(came, f"no presence and report within {case.within_s:g} s of a cut")
    case.answers()
    return "presence and report came again by themselves, and a command is answered"


CHECKS: Final = (
    Check(
        id="link-presence",
        says="The first message of a connection is a presence that says online, with the boot id.",
        run=_presence,
    ),
    Check(
        id="link-fingerprint",
        says="A report holds four facets, each with the digest of its facts.",
        run=_facets,
    ),
    Check(
        id="link-generation",
        says="A report says which generation of the desired state it has seen.",
        run=_generation,
    ),
    Check(
        id="link-command",
        says="The command REPORT is answered with a report.",
        run=_report_command,
    ),
    Check(
        id="link-late",
        says="A command past its deadline does nothing.",
        run=_late_command,
    ),
    Check(
        id="link-unknown",
        says="Fields that are not known, in messages and in signed orders, change nothing.",
        run=_unknown_fields,
    ),
    Check(
        id="link-garbage",
        says="A message that cannot be read is passed over and does not end the link.",
        run=_garbage,
    ),
    Check(
        id="link-reconnect",
        says="A connection that ends is opened again, and presence and report are sent anew.",
        run=_reconnect,
    ),
)
