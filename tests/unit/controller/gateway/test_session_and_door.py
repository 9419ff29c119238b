"""The session's mailbox, the choice of a link, and the doorkeeper: no wire."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.config import LinkChoice, Settings
from controller.errors import UserError
from controller.gateway import door as doors
from controller.gateway.broker import Found
from controller.gateway.door import Door, Doorkeeper, open_door
from controller.gateway.link import field_of
from controller.gateway.memory import MemoryLink
from controller.gateway.session import MAILBOX_LIMIT, Ended, Session
from controller.trust import TrustFiles
from fitment.core.deployment import DesiredState
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Ack

FILES = TrustFiles.of(Path("/none"))


def desired(generation: int) -> Downlink:
    return Downlink(desired=DesiredState(generation=generation))


def ack(sequence: int) -> Downlink:
    return Downlink(ack=Ack(outbox="o", sequence=sequence))


def taken(*puts: Downlink) -> list[Downlink | None]:
    async def run() -> list[Downlink | None]:
        session = Session("device-a")
        for downlink in puts:
            session.put(downlink)
        got = []
        while session.waiting:
            got.append(await session.take())
        session.end(Ended.REPLACED)
        session.end(Ended.STOPPED)
        assert session.ended is Ended.REPLACED
        got.append(await session.take())
        return got

    return asyncio.run(run())


def test_a_newer_desired_state_replaces_one_that_waits() -> None:
    assert taken(desired(1), ack(1), desired(2)) == [desired(2), ack(1), None]


def test_a_slow_device_loses_the_oldest_and_costs_no_memory() -> None:
    got = taken(*(ack(n) for n in range(MAILBOX_LIMIT + 10)))
    assert got == [*(ack(n) for n in range(10, MAILBOX_LIMIT + 10)), None]


def test_one_field_is_set() -> None:
    assert field_of(desired(1)) == "desired"
    with pytest.raises(ValueError, match="exactly one"):
        field_of(Uplink())


def open_with(**changes: object) -> Door:
    settings = Settings(**changes)  # type: ignore[arg-type]
    return open_door(settings, FILES, frozenset)


def test_without_mosquitto_auto_is_the_session_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doors, "find_mosquitto", lambda: Found(program=None, reason="not there"))
    door = open_with(link=LinkChoice.AUTO)
    assert (door.kind, door.mqtt_address) == ("grpc", "")
    assert "not there" in door.notes[0]
    with pytest.raises(UserError, match=r"link is 'mqtt', but not there"):
        open_with(link=LinkChoice.MQTT)


def test_the_session_starts_nothing() -> None:
    door = open_with(link=LinkChoice.GRPC, mqtt_url="mqtts://b:1")
    assert (door.kind, door.broker, door.notes) == ("grpc", None, ())


def test_a_foreign_broker_is_told_to_devices_as_it_is() -> None:
    assert open_with(mqtt_url="mqtts://broker.example").mqtt_address == "broker.example:8883"
    assert open_with(mqtt_url="mqtts://broker.example:1").kind == "mqtt"
    for wrong in ("mqtts://", "mqtts://b:many"):
        with pytest.raises(UserError, match="mqtt_url"):
            open_with(mqtt_url=wrong)


def test_the_doorkeeper_acts_on_changes_only(tmp_path: Path) -> None:
    class Watched(MemoryLink):
        def __init__(self) -> None:
            super().__init__()
            self.evicted: list[str] = []

        def evict(self, device: str) -> None:
            self.evicted.append(device)

    link = Watched()
    revoked = {"old"}
    crl = tmp_path / "crl.pem"
    door = Door(link=link, sessions=None, broker=None, mqtt_address="")
    keeper = Doorkeeper(door, lambda: frozenset(revoked), crl)
    keeper.look()
    assert link.evicted == []
    revoked.add("device-a")
    keeper.look()
    keeper.look()
    assert link.evicted == ["device-a"]
    revoked.remove("device-a")
    crl.write_bytes(b"new")
    keeper.look()
    revoked.add("device-a")
    keeper.look()
    assert link.evicted == ["device-a", "device-a"]
