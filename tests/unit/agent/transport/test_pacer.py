"""Waits between tries to connect: longer and longer, scattered, and over at once when asked."""

from __future__ import annotations

import threading

import pytest

from agent.domain.patience import RECONNECT_MAX_S, STEADY_S
from agent.transport.link import Pacer


def waits(pacer: Pacer, count: int, monkeypatch: pytest.MonkeyPatch, **named: float) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _self, seconds: taken.append(seconds))
    for _ in range(count):
        pacer.wait(named.get("jitter_s", 0.0))
    return taken


def test_waits_double_up_to_a_limit_and_are_scattered(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = waits(Pacer(base_s=1.0), 12, monkeypatch)
    for number, seconds in enumerate(taken):
        full = min(RECONNECT_MAX_S, 2.0**number)
        assert full / 2 <= seconds <= full


def test_the_controllers_jitter_comes_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [
        seconds
        for _ in range(50)
        for seconds in waits(Pacer(base_s=1.0), 1, monkeypatch, jitter_s=30.0)
    ]
    assert max(taken) > 5.0
    assert max(taken) <= 31.0


def test_a_connection_that_lasted_makes_waits_short_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pacer = Pacer(base_s=1.0)
    waits(pacer, 6, monkeypatch)
    pacer.connected(STEADY_S - 1)
    assert waits(pacer, 1, monkeypatch)[0] >= 30.0
    pacer.connected(STEADY_S)
    assert waits(pacer, 1, monkeypatch)[0] <= 1.0


def test_stopping_ends_a_wait() -> None:
    pacer = Pacer(base_s=60.0)
    threading.Timer(0.05, pacer.stop).start()
    pacer.wait(60.0)
    assert pacer.stopped
    pacer.wait(60.0)
