"""Every shared type and its message say the same, field by field."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message

from fitment.core import deployment, fingerprint, kernels, link, measurement, plain, telemetry
from fitment.v1 import deployment_pb2
from fitment.wire import codec


def walk(kind: Any, message: type[Message] | Any, seen: set[type]) -> Iterator[tuple[Any, Any]]:
    """Pairs of dataclass and message descriptor reachable from one pair."""
    if kind in seen:
        return
    seen.add(kind)
    yield kind, message
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for inner in dataclasses_in(hints[field.name]):
            descriptor = message.fields_by_name[field.name].message_type
            if descriptor.GetOptions().map_entry:
                descriptor = descriptor.fields_by_name["value"].message_type
            yield from walk(inner, descriptor, seen)


def dataclasses_in(hint: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from dataclasses_in(argument)


PAIRS = [
    pair for kind, message in codec.PAIRS.items() for pair in walk(kind, message.DESCRIPTOR, set())
]
NAMES = [f"{number}-{kind.__name__}" for number, (kind, _) in enumerate(PAIRS)]


@pytest.mark.parametrize(("kind", "descriptor"), PAIRS, ids=NAMES)
def test_fields_are_the_same(kind: Any, descriptor: Any) -> None:
    ours = {field.name for field in dataclasses.fields(kind)}
    assert ours == set(descriptor.fields_by_name)


@pytest.mark.parametrize(("kind", "descriptor"), PAIRS, ids=NAMES)
def test_enum_members_are_the_same(kind: Any, descriptor: Any) -> None:
    hints = typing.get_type_hints(kind)
    for name, field in descriptor.fields_by_name.items():
        if field.enum_type is None:
            continue
        kinds = [hints[name], *typing.get_args(hints[name])]
        ours = next(k for k in kinds if isinstance(k, type) and issubclass(k, enum.Enum))
        names = {value.name for value in field.enum_type.values}
        prefix = (
            names and next(n for n in names if n.endswith("UNSPECIFIED"))[: -len("UNSPECIFIED")]
        )
        assert {prefix + member for member in ours.__members__} | {prefix + "UNSPECIFIED"} == names


def reported() -> deployment.ReportedState:
    facet = fingerprint.Facet.of({"machine": "x86_64"})
    energy = measurement.Energy(status=measurement.ReadingStatus.UNAVAILABLE, reason="no sensor")
    taken = measurement.Measurement(
        id="m", bundle="sha256:0", runtime="onnx 1.32", threads=1, energy=energy,
        verdict=measurement.Verdict.CONTENDED, reasons=("busy",), conditions={"psi": 12.5},
    )  # fmt: skip
    progress = deployment.DeploymentReport(
        deployment="d", slot="s", variant="v", state=deployment.DeploymentState.REPORTING,
        outcome=deployment.Outcome.ROLLED_BACK, measurement=taken,
    )  # fmt: skip
    return deployment.ReportedState(
        boot_id="b", agent_version="1", observed_generation=3,
        fingerprint=fingerprint.Fingerprint(
            chassis=facet, hardware=facet, stack=facet, condition=facet, emulated=True
        ),
        slots=(deployment.SlotReport(slot="s", golden_ok=False),), deployments=(progress,),
    )  # fmt: skip


BATCH = telemetry.TelemetryBatch(
    outbox="o", sequence=7, first_available=5, boot_id="b", monotonic_ns=(1, 2),
    wall_unix_ns=(3, 4), columns={"latency_p50_ms": telemetry.Column(values=(0.5, 0.25))},
    tags={"slot": "s"},
)  # fmt: skip
SIGNED = deployment.SignedPayload(payload=b"{}", key_id="k", signature=b"\x00\xff")
VALUES: list[Any] = [
    link.Uplink(presence=telemetry.Presence(online=True, boot_id="b")),
    link.Uplink(reported=reported()),
    link.Uplink(telemetry=BATCH),
    link.Downlink(ack=telemetry.Ack(outbox="o", sequence=7)),
    link.Downlink(command=telemetry.Command(id="c", kind=telemetry.CommandKind.PROBE)),
    link.Downlink(desired=deployment.DesiredState(generation=2, assignments=(SIGNED,))),
    kernels.KernelTable(
        runtime="onnx", runtime_version="1.32.0", hardware="h", stack="s", threads=1,
        verdict=measurement.Verdict.VALID, emulated=False,
        timings=(kernels.KernelTiming(kernel="k", scheme="fp32", macs=1, p50_us=2.0, count=3),),
    ),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_survives_the_wire(value: Any) -> None:
    assert codec.decode(type(value), codec.encode(value)) == value


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_survives_plain_json(value: Any) -> None:
    assert plain.from_plain(type(value), plain.to_plain(value)) == value


def test_null_and_zero_stay_apart() -> None:
    latency = {"agreement": None, "sqnr_db": 0.0}
    energy = measurement.Energy(status=measurement.ReadingStatus.UNAVAILABLE)
    value = measurement.Measurement(
        id="m", bundle="b", runtime="r", threads=1, verdict=measurement.Verdict.VALID,
        energy=energy, **latency,
    )  # fmt: skip
    back = codec.decode(measurement.Measurement, codec.encode(value))
    assert back.agreement is None
    assert back.sqnr_db == 0.0


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x08"])
def test_noise_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(codec.WireError, match="not a Downlink"):
        codec.decode(link.Downlink, data)


def test_an_unknown_enum_value_is_a_wire_error() -> None:
    message = deployment_pb2.Downlink()
    message.command.kind = 99  # type: ignore[assignment]
    with pytest.raises(codec.WireError, match="value 99 is unknown"):
        codec.decode(link.Downlink, message.SerializeToString())
