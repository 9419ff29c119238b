"""Two controllers on one database file: one acts, and the other's writes are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.domain import fleet
from controller.errors import Conflict, LeaseLost
from controller.reconcile import leasing
from controller.reconcile.engine import Engine
from controller.reconcile.leasing import Keeper
from controller.store import lease as row
from controller.store.sql import SqlStore
from controller.testing import ManualClock
from controller.trust import Trust
from fitment.core.bundle import ReleaseManifest

LENGTH_S = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    SqlStore(tmp_path / "fitment.db", "default").close()
    return tmp_path / "fitment.db"


def take(path: Path, **how: Any) -> tuple[Any, float]:
    """The lease, by a process that has the kernel's lock unless it is said otherwise."""
    more = {"standby": False, "has_lock": lambda: True, "stop": threading.Event(), **how}
    got = leasing.acquire(path, leasing.mine(LENGTH_S), **more)
    assert got is not None
    return got


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


@pytest.fixture
def first(path: Path, clock: ManualClock) -> Iterator[tuple[SqlStore, Keeper]]:
    store = SqlStore(path, "default")
    yield store, Keeper(store, take(path)[0], 0.0, has_lock=lambda: True, clock=clock)
    store.close()


def test_the_holder_renews_now_and_then(
    path: Path, first: tuple[SqlStore, Keeper], clock: ManualClock
) -> None:
    _, keeper = first
    beats = []
    for _ in range(30):
        keeper.check()
        keeper.must_act()
        beats.append(keeper.held.beat)
        clock.advance(1.0)
    assert beats[-1] - beats[0] in range(9, 16)  # every two seconds of ten
    assert row.read(path) == keeper.held


def test_a_holder_that_slept_goes_on_when_nobody_came(
    first: tuple[SqlStore, Keeper], clock: ManualClock
) -> None:
    store, keeper = first
    clock.advance(1000.0)
    with pytest.raises(LeaseLost, match="not renewed in time"):
        keeper.must_act()
    keeper.check()
    keeper.must_act()
    store.devices.put(fleet.Device(name="a"))


def test_what_a_former_holder_writes_is_refused(
    path: Path, first: tuple[SqlStore, Keeper], clock: ManualClock
) -> None:
    store, keeper = first
    told: list[str] = []
    keeper.tell(lambda: told.append("lost"))
    store.devices.put(fleet.Device(name="before"))
    number = take(path)[0].number  # it has the lock that the first had: so that one has ended
    assert number == keeper.held.number + 1
    with pytest.raises(LeaseLost, match="nothing was changed"):
        store.devices.put(fleet.Device(name="after"))
    with pytest.raises(LeaseLost):
        together(store, lambda: None)
    assert [d.name for d in store.devices.find()] == ["before"]  # it may still look
    clock.advance(3.0)
    for _ in range(2):
        with pytest.raises(LeaseLost, match="was taken over"):
            keeper.check()
    with pytest.raises(LeaseLost, match="was taken over"):
        keeper.must_act()
    assert told == ["lost"]
    keeper.release()
    now = row.read(path)
    assert now is not None
    assert (now.number, now.released) == (number, False)


def together(store: SqlStore, meanwhile: Callable[[], object]) -> None:
    """Read, and then write, in one transaction."""
    with store.transaction():
        store.devices.find()
        meanwhile()
        store.devices.put(fleet.Device(name="late"))
        store.set_setting("x", "y")


def test_a_transaction_that_was_begun_before_is_refused_too(
    path: Path, first: tuple[SqlStore, Keeper]
) -> None:
    """It read, and was stopped; when it goes on to write, another one has the lease."""
    store, _ = first
    with pytest.raises(LeaseLost):
        together(store, lambda: take(path))
    assert store.devices.find() == ()


def test_nobody_takes_over_while_the_holder_is_there(path: Path) -> None:
    before, _ = take(path, has_lock=lambda: False)
    stop = threading.Event()

    def live() -> None:
        held = before
        while not stop.wait(0.2):
            after = leasing.rules.renewed(held, locked=False)
            assert row.swap(path, held, after)
            held = after

    holder = threading.Thread(target=live)
    holder.start()
    try:
        with pytest.raises(Conflict, match="--standby"):
            take(path)
    finally:
        stop.set()
        holder.join()


def test_a_standby_that_is_told_to_stop_takes_nothing(path: Path) -> None:
    before, _ = take(path, has_lock=lambda: False)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    wanted = leasing.mine(LENGTH_S)
    got = leasing.acquire(path, wanted, standby=True, has_lock=lambda: False, stop=stop)
    assert got is None
    assert row.read(path) == before


def test_what_was_given_back_is_taken_at_once(path: Path, first: tuple[SqlStore, Keeper]) -> None:
    _, keeper = first
    keeper.release()
    assert take(path, has_lock=lambda: False)[0].number == keeper.held.number + 1


def test_the_engine_does_nothing_without_the_lease(
    path: Path, first: tuple[SqlStore, Keeper], clock: ManualClock
) -> None:
    _, keeper = first
    done: list[int] = []

    class Ticking:
        def tick(self) -> float:
            done.append(0)
            return 0.0

    engine = Engine(Ticking(), tick_s=0.01, guard=keeper.check)  # type: ignore[arg-type]
    assert engine.call(lambda: done.append(1) or "done").result(5) == "done"  # type: ignore[func-returns-value]
    take(path)
    clock.advance(3.0)
    with pytest.raises(LeaseLost):
        engine.call(lambda: done.append(2)).result(5)
    engine.start()
    while engine.ticks.failures < 3:
        pass
    engine.stop()
    assert done == [1]


def test_no_metadata_is_signed_without_the_lease(
    tmp_path: Path, path: Path, first: tuple[SqlStore, Keeper], clock: ManualClock
) -> None:
    _, keeper = first
    trust = Trust.create(tmp_path / "trust", tmp_path / "offline")
    trust.repository.before_signing = keeper.must_act
    before = sorted(p.name for p in (tmp_path / "trust" / "metadata").glob("*.json"))
    clock.advance(9.0)  # stopped in the middle of an approval
    with pytest.raises(LeaseLost):
        trust.repository.approve(
            ReleaseManifest(release="r", model="m", version="1", slot="m", counter=1)
        )
    assert sorted(p.name for p in (tmp_path / "trust" / "metadata").glob("*.json")) == before
