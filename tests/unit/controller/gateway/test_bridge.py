"""What comes while the engine is busy is taken in together, and one bad message harms no other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from controller.errors import LeaseLost, Temporary
from controller.gateway import bridge
from controller.gateway.bridge import Bridge
from controller.gateway.memory import MemoryLink
from controller.reconcile.ingest import Heard
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Ack, Presence, TelemetryBatch

ONLINE = Uplink(presence=Presence(online=True, boot_id="b"))


def telemetry(sequence: int) -> Uplink:
    batch = TelemetryBatch(
        outbox="o", sequence=sequence, first_available=1, boot_id="b", monotonic_ns=(),
        wall_unix_ns=(),
    )  # fmt: skip
    return Uplink(telemetry=batch)


class OneThread:
    """An engine without ticks: a thread, and a gate that holds it up."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.calls = 0
        self.stopped = False

    def call(self, fn: Any) -> Future[Any]:
        if self.stopped:
            raise Temporary("the engine has stopped")
        self.calls += 1
        return self.pool.submit(fn)

    def wait(self) -> None:
        """Until what was asked for so far, and what that asked for, is done."""
        calls = -1
        while calls != self.calls:
            calls = self.calls
            self.pool.submit(lambda: None).result(20)


class Controller:
    """Remembers what it was handed; cannot stand the device ``bad``."""

    def __init__(self) -> None:
        self.batches: list[list[Heard]] = []
        self.taken: list[Heard] = []

    def on_heard(self, heard: Sequence[Heard]) -> tuple[tuple[str, Downlink], ...]:
        self.batches.append(list(heard))
        if any(one.device == "bad" for one in heard):
            raise RuntimeError("a bad record")
        self.taken += heard
        return tuple((one.device, Downlink(ack=Ack(outbox="o", sequence=1))) for one in heard)


def made() -> tuple[Bridge, OneThread, Controller, MemoryLink]:
    engine, controller, link = OneThread(), Controller(), MemoryLink()
    return Bridge(engine, controller, link), engine, controller, link


def test_what_waits_is_taken_in_together_and_in_order() -> None:
    between, engine, controller, _link = made()
    hold = threading.Event()
    engine.call(lambda: hold.wait(20))
    for number in range(3):
        between.on_online(f"d{number}")
        between.on_up(f"d{number}", ONLINE)
    between.on_offline("d0")
    hold.set()
    engine.wait()
    assert len(controller.batches) == 1
    assert [one.device for one in controller.taken] == ["d0", "d0", "d1", "d1", "d2", "d2", "d0"]
    assert [one.up for one in controller.taken] == [True, None, True, None, True, None, False]


def test_one_bad_message_keeps_no_other_out(caplog: pytest.LogCaptureFixture) -> None:
    between, engine, controller, _link = made()
    hold = threading.Event()
    engine.call(lambda: hold.wait(20))
    for name in ("d0", "bad", "d1"):
        between.on_up(name, ONLINE)
    hold.set()
    engine.wait()
    assert [one.device for one in controller.taken] == ["d0", "d1"]
    assert "action=uplink_failed device=bad" in caplog.text


@pytest.mark.parametrize(
    ("error", "comes_again"),
    [(OSError("the disk is busy"), True), (LeaseLost("another acts"), False)],
    ids=["for a moment", "for good"],
)
def test_an_engine_that_refuses_is_not_asked_again_at_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *, comes_again: bool
) -> None:
    later: list[tuple[float, Any]] = []

    class Timer:
        def __init__(self, seconds: float, act: Any) -> None:
            later.append((seconds, act))
            self.daemon = False

        def start(self) -> None:
            assert self.daemon

    monkeypatch.setattr(bridge.threading, "Timer", Timer)
    between, engine, controller, _link = made()
    refused, asked = [], engine.call

    def guarded(fn: Any) -> Future[Any]:
        def checked() -> Any:
            if not refused:
                refused.append(fn)
                raise error
            return fn()

        return asked(checked)

    monkeypatch.setattr(engine, "call", guarded)
    between.on_up("d0", ONLINE)
    engine.wait()
    assert controller.taken == []
    assert [seconds for seconds, _ in later] == [bridge.AGAIN_S] * comes_again
    for _, ask in later:
        ask()
    engine.wait()
    assert bool(controller.taken) is comes_again


def test_a_flood_is_taken_in_parts_with_room_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a tick would wait for as long as devices keep talking."""
    monkeypatch.setattr(bridge, "TOGETHER", 2)
    between, engine, controller, _link = made()
    hold = threading.Event()
    engine.call(lambda: hold.wait(20))
    for number in range(5):
        between.on_up(f"d{number}", ONLINE)
    seen: list[int] = []
    engine.call(lambda: seen.append(len(controller.taken)))
    hold.set()
    engine.wait()
    assert [len(batch) for batch in controller.batches] == [2, 2, 1]
    assert seen == [2], "what was asked for meanwhile came after the first part"


def test_when_too_much_waits_telemetry_goes_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge, "WAITING_MOST", 3)
    between, engine, controller, _link = made()
    hold = threading.Event()
    engine.call(lambda: hold.wait(20))
    for number in range(1, 6):
        between.on_up("d", telemetry(number))
    between.on_offline("d")
    hold.set()
    engine.wait()
    sequences = [h.uplink.telemetry.sequence for h in controller.taken if h.uplink is not None]  # type: ignore[union-attr]
    assert (sequences, controller.taken[-1].up) == ([1, 2, 3], False)
    assert "action=telemetry_dropped batches=2" in caplog.text


def test_a_batch_that_comes_again_while_it_waits_waits_once() -> None:
    between, engine, controller, _link = made()
    hold = threading.Event()
    engine.call(lambda: hold.wait(20))
    for _ in range(3):
        between.on_up("d", telemetry(1))
        between.on_up("e", telemetry(1))
    hold.set()
    between.on_up("f", ONLINE)  # what is urgent takes it along
    engine.wait()
    assert [one.device for one in controller.taken] == ["d", "e", "f"]
    between.on_up("d", telemetry(1))
    between.on_up("f", ONLINE)
    engine.wait()
    devices = [one.device for one in controller.taken]
    assert devices == ["d", "e", "f", "d", "f"], "it asks for its ack again"


def test_telemetry_waits_for_company_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge, "GATHER_S", 3600.0)
    monkeypatch.setattr(bridge, "TOGETHER", 4)
    between, engine, controller, _link = made()
    for device in "abc":
        between.on_up(device, telemetry(1))
    engine.wait()
    assert controller.batches == []
    between.on_up("d", telemetry(1))  # as many as go into one transaction
    engine.wait()
    between.on_up("a", telemetry(2))
    between.on_up("b", ONLINE)
    engine.wait()
    assert [[one.device for one in batch] for batch in controller.batches] == [
        ["a", "b", "c", "d"], ["a", "b"]
    ]  # fmt: skip


def test_telemetry_without_company_is_taken_in_soon() -> None:
    engine, taken = OneThread(), threading.Event()

    class Listening(Controller):
        def on_heard(self, heard: Sequence[Heard]) -> tuple[tuple[str, Downlink], ...]:
            taken.set()
            return super().on_heard(heard)

    Bridge(engine, Listening(), MemoryLink()).on_up("a", telemetry(1))
    assert taken.wait(20)


def test_after_the_engine_nobody_minds() -> None:
    between, engine, controller, _link = made()
    engine.stopped = True
    between.on_up("d", ONLINE)
    assert controller.batches == []
