"""One suite for every store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.domain import fleet
from controller.errors import Conflict
from controller.store.base import Store
from controller.store.memory import MemoryStore
from controller.store.sql import SqlStore
from fitment.core.telemetry import Column, TelemetryBatch


@pytest.fixture(params=["memory", "sql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = (
        MemoryStore("default")
        if request.param == "memory"
        else SqlStore(tmp_path / "f.db", "default")
    )
    yield made
    made.close()


def batch(sequence: int, *, first: int = 1, outbox: str = "o") -> TelemetryBatch:
    return TelemetryBatch(
        outbox=outbox, sequence=sequence, first_available=first, boot_id="b",
        monotonic_ns=(1, 2), wall_unix_ns=(sequence * 10**9, sequence * 10**9 + 1),
        columns={"latency_p50_ms": Column(values=(0.5, float("nan")))},
    )  # fmt: skip


DEVICE = fleet.Device(name="pi", profile="raspberry-pi-5", labels={"site": "north"})


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    store.devices.put(DEVICE)
    assert store.devices.get("pi") == DEVICE
    assert store.devices.get("other") is None


def test_put_replaces_and_add_refuses(store: Store) -> None:
    store.devices.add(DEVICE)
    store.devices.put(replace(DEVICE, profile="imx93"))
    assert [d.profile for d in store.devices.find()] == ["imx93"]
    with pytest.raises(Conflict, match="'pi' is there already"):
        store.devices.add(DEVICE)


def test_find_filters_by_equality_in_insertion_order(store: Store) -> None:
    for name, profile in (("c", "x"), ("a", "y"), ("b", "x")):
        store.devices.put(fleet.Device(name=name, profile=profile))
    store.devices.put(fleet.Device(name="c", profile="x", revoked=True))
    assert [d.name for d in store.devices.find(profile="x")] == ["c", "b"]
    assert [d.name for d in store.devices.find(profile="x", revoked=False)] == ["b"]
    with pytest.raises(ValueError, match="no index on 'online'"):
        store.devices.find(online=True)


def test_enums_are_indexed(store: Store) -> None:
    rollout = fleet.Rollout(id="r", release="1", state=fleet.RolloutState.RUNNING, created_at=1.0)
    store.rollouts.put(rollout)
    assert store.rollouts.find(state=fleet.RolloutState.RUNNING) == (rollout,)
    assert store.rollouts.find(state=fleet.RolloutState.PAUSED) == ()


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def fail_in_the_middle() -> None:
        with store.transaction():
            store.devices.put(DEVICE)
            with store.transaction():
                store.set_setting("k", "v")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert store.devices.find() == ()
    assert store.setting("k") is None


def test_delete(store: Store) -> None:
    store.devices.put(DEVICE)
    assert store.devices.delete("pi")
    assert not store.devices.delete("pi")


@pytest.mark.parametrize(
    ("sequences", "first", "acked"),
    [
        ((1, 2, 3), 1, 3),
        ((1, 3), 1, 1),  # 2 is still with the device
        ((1, 3, 2), 1, 3),
        ((5, 6), 5, 6),  # what was dropped on the device blocks nothing
        ((2,), 1, 0),
        ((1, 1, 1), 1, 1),
    ],
)
def test_acks_name_the_highest_contiguous_sequence(
    store: Store, sequences: tuple[int, ...], first: int, acked: int
) -> None:
    acks = [store.telemetry.ingest("pi", batch(s, first=first)) for s in sequences]
    assert acks[-1].sequence == acked


def test_a_batch_is_stored_once(store: Store) -> None:
    for _ in range(3):
        store.telemetry.ingest("pi", batch(1))
    store.telemetry.ingest("pi", batch(1, outbox="another"))
    assert store.telemetry.count("pi") == 4
    assert store.telemetry.count("other") == 0


def test_nan_is_no_value(store: Store) -> None:
    store.telemetry.ingest("pi", batch(1))
    store.telemetry.ingest("pi", batch(2))
    assert store.telemetry.latest("pi", "latency_p50_ms", 9) == ((2.0, 0.5), (1.0, 0.5))
