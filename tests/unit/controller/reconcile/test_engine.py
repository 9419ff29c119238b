"""One thread, in order, that nothing kills."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from controller.errors import Temporary
from controller.reconcile.controller import Controller
from controller.reconcile.engine import Engine


class Ticking:
    """A controller whose tick fails when it is told to."""

    def __init__(self) -> None:
        self.ticks = 0
        self.threads: set[str] = set()
        self.broken = False
        self.seen = threading.Condition()

    def tick(self) -> float:
        with self.seen:
            self.ticks += 1
            self.threads.add(threading.current_thread().name)
            self.seen.notify_all()
        if self.broken:
            raise RuntimeError("a bad record")
        return 0.01

    def wait(self, ticks: int) -> None:
        with self.seen:
            target = self.ticks + ticks
            assert self.seen.wait_for(lambda: self.ticks >= target, timeout=10.0)


@pytest.fixture
def ticking() -> Ticking:
    return Ticking()


@pytest.fixture
def engine(ticking: Ticking) -> Iterator[Engine]:
    made = Engine(cast("Controller", ticking), tick_s=0.02)
    made.start()
    yield made
    made.stop()


def test_calls_and_ticks_share_one_thread(engine: Engine, ticking: Ticking) -> None:
    ticking.wait(2)
    names = [engine.call(lambda: threading.current_thread().name).result(5.0) for _ in range(5)]
    assert set(names) == ticking.threads
    assert len(ticking.threads) == 1


def test_an_exception_is_the_callers(engine: Engine) -> None:
    def fail() -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        engine.call(fail).result(5.0)
    assert engine.call(lambda: 7).result(5.0) == 7


def test_a_failing_tick_is_said_once_and_kills_nothing(
    engine: Engine, ticking: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    ticking.broken = True
    ticking.wait(4)
    ticking.broken = False
    ticking.wait(2)
    assert engine.call(lambda: 7).result(5.0) == 7
    assert [r.message for r in caplog.records if "failed" in r.message] == ["action=tick_failed"]


def test_after_the_stop_callers_are_told(ticking: Ticking) -> None:
    engine = Engine(cast("Controller", ticking))
    engine.start()
    engine.stop()
    engine.stop()
    with pytest.raises(Temporary, match="stopping"):
        engine.call(lambda: 7)
