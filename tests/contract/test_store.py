"""One suite for every store: the in-memory twin and SQLite on disk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.domain import fleet
from controller.domain.telemetry import Held, Keep, Origin, Period, Query, Rollup, pooled
from controller.errors import Conflict
from controller.store import open_store
from controller.store.base import INDEXED, KEYS, Store
from controller.store.memory import MemoryStore
from fitment.core.deployment import Outcome
from fitment.core.telemetry import Column, TelemetryBatch
from tests.contract.store_records import DEPLOYMENT, DEVICE, RECORDS, STUDY


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'new' / 'f.db'}"
    opened = open_store(url, "default")
    yield opened
    opened.close()


def batch(sequence: int, *, first: int = 1, outbox: str = "o") -> TelemetryBatch:
    return TelemetryBatch(
        outbox=outbox, sequence=sequence, first_available=first, boot_id="b",
        monotonic_ns=(1, 2), wall_unix_ns=(sequence * 10**9, sequence * 10**9 + 1),
        columns={"latency_p50_ms": Column(values=(0.5, float("nan")))}, tags={"slot": "s"},
    )  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_comes_back_as_it_went_in(store: Store, name: str) -> None:
    collection, record = getattr(store, name), RECORDS[name]
    collection.add(record)
    assert collection.get("k") == record
    assert collection.get("other") is None
    assert collection.find() == (record,)
    for field in INDEXED[type(record)]:
        assert collection.find(**{field: getattr(record, field)}) == (record,)
        assert collection.find(**{field: "another"}) == ()


def test_every_collection_is_covered() -> None:
    assert {type(record) for record in RECORDS.values()} == set(KEYS) == set(INDEXED)


def test_put_replaces_in_place_and_add_refuses(store: Store) -> None:
    for name in ("c", "a", "b"):
        store.devices.add(fleet.Device(name=name))
    with pytest.raises(Conflict, match="'a' is there already"):
        store.devices.add(fleet.Device(name="a", profile="x"))
    store.devices.put(fleet.Device(name="a", profile="x"))
    assert [(d.name, d.profile) for d in store.devices.find()] == [("c", ""), ("a", "x"), ("b", "")]
    assert store.devices.delete("c")
    assert not store.devices.delete("c")
    assert [d.name for d in store.devices.find()] == ["a", "b"]


def test_filters_hold_together_and_follow_the_record(store: Store) -> None:
    for name, profile in (("c", "x"), ("a", "y"), ("b", "x")):
        store.devices.put(fleet.Device(name=name, profile=profile))
    store.devices.put(fleet.Device(name="c", profile="x", revoked=True))
    assert [d.name for d in store.devices.find(profile="x")] == ["c", "b"]
    assert [d.name for d in store.devices.find(profile="x", revoked=False)] == ["b"]
    with pytest.raises(ValueError, match="no index on 'online'"):
        store.devices.find(online=True)


def test_pages_are_stable_while_records_come_change_and_go(store: Store) -> None:
    for name in "abcdef":
        store.devices.add(fleet.Device(name=name, profile="y" if name == "c" else "x"))
    first = store.devices.page(2)
    assert [record.name for _, record in first] == ["a", "b"]
    store.devices.delete("a")
    store.devices.put(fleet.Device(name="d", profile="x", online=True))  # keeps its place
    store.devices.add(fleet.Device(name="g", profile="x"))
    rest = store.devices.page(9, after=first[-1][0])
    assert [record.name for _, record in rest] == ["c", "d", "e", "f", "g"]
    assert [r.name for _, r in store.devices.page(2, after=rest[0][0], profile="x")] == ["d", "e"]
    newest = store.devices.page(2, newest=True)
    assert [record.name for _, record in newest] == ["g", "f"]
    older = store.devices.page(9, after=newest[-1][0], newest=True, profile="x")
    assert [record.name for _, record in older] == ["e", "d", "b"]
    assert store.devices.page(2, after=rest[-1][0]) == ()


def test_tallies_count_by_any_plain_field(store: Store) -> None:
    for name, profile, online in (("a", "x", True), ("b", "x", False), ("c", "", True)):
        store.devices.add(fleet.Device(name=name, profile=profile, online=online))
    store.devices.add(fleet.Device(name="d", profile="x", online=True))
    expected = {("x", "true"): 2, ("x", "false"): 1, ("", "true"): 1}
    assert store.devices.tally("profile", "online") == expected
    assert store.devices.tally("online", profile="x") == {("true",): 2, ("false",): 1}
    assert store.rollouts.tally("state") == {}
    store.deployments.put(DEPLOYMENT)
    store.deployments.put(replace(DEPLOYMENT, id="ended", outcome=Outcome.COMMITTED))
    assert store.deployments.tally("outcome") == {("null",): 1, ("committed",): 1}
    with pytest.raises(ValueError, match="colour"):
        store.devices.tally("colour")


def test_what_is_open_is_found_by_null_and_zero(store: Store) -> None:
    store.deployments.put(DEPLOYMENT)
    store.deployments.put(replace(DEPLOYMENT, id="ended", outcome=Outcome.COMMITTED))
    assert store.deployments.find(outcome=None) == (DEPLOYMENT,)
    assert len(store.deployments.find(outcome=Outcome.COMMITTED)) == 1
    store.studies.put(STUDY)
    store.studies.put(replace(STUDY, id="done", done_at=5.5))
    assert store.studies.find(done_at=0.0) == (STUDY,)


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    store.devices.add(DEVICE)
    store.set_setting("k", "1")

    def fail_in_the_middle() -> None:
        with store.transaction():
            store.devices.put(replace(DEVICE, profile="x"))
            store.devices.add(fleet.Device(name="new"))
            store.telemetry.ingest("k", batch(1))
            with store.transaction():  # joins the outer one
                store.set_setting("k", "2")
                store.devices.delete("k")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert store.devices.find() == (DEVICE,)
    assert store.setting("k") == "1"
    assert store.telemetry.count("k") == 0
    with store.transaction():
        store.devices.add(fleet.Device(name="new"))
        assert store.devices.get("new") is not None
    assert store.devices.get("new") is not None


def test_settings(store: Store) -> None:
    assert store.setting("x") is None
    store.set_setting("x", "1")
    store.set_setting("x", "2")
    assert store.setting("x") == "2"


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
    acks = [store.telemetry.ingest("d", batch(s, first=first)) for s in sequences]
    assert (acks[-1].outbox, acks[-1].sequence) == ("o", acked)


def test_many_batches_are_taken_as_one_after_the_other(store: Store) -> None:
    """In whatever order and however often they come, and across devices and outboxes."""
    chance, alone = random.Random(3), MemoryStore("alone")
    coming = [
        (f"d{chance.randrange(3)}", batch(chance.randrange(1, 12), outbox=chance.choice("op")))
        for _ in range(120)
    ]
    acks: dict[tuple[str, str], int] = {}
    while coming:
        group, coming = coming[:7], coming[7:]
        for (device, _), ack in zip(group, store.telemetry.ingest_many(group), strict=True):
            acks[device, ack.outbox] = ack.sequence
        for device, one in group:
            last = alone.telemetry.ingest(device, one)
        assert acks[group[-1][0], last.outbox] == last.sequence
    assert store.telemetry.ingest_many(()) == ()
    for device in ("d0", "d1", "d2"):
        assert store.telemetry.count(device) == alone.telemetry.count(device) > 0
    assert store.telemetry.held().rows_ever == alone.telemetry.held().rows_ever


def test_one_ragged_batch_among_many_is_refused_with_all(store: Store) -> None:
    ragged = replace(batch(1), columns={"a": Column(values=(1.0,))})
    with pytest.raises(ValueError, match="different lengths"):
        store.telemetry.ingest_many((("d", batch(1)), ("e", ragged)))
    assert store.telemetry.count("d") == 0


def test_a_batch_is_stored_once(store: Store) -> None:
    for _ in range(3):
        store.telemetry.ingest("d", batch(1))
    store.telemetry.ingest("d", batch(1, outbox="another"))
    assert store.telemetry.count("d") == 4
    assert store.telemetry.count("other") == 0


def test_latest_is_newest_first_and_leaves_out_what_no_sensor_said(store: Store) -> None:
    store.telemetry.ingest("d", batch(1))
    store.telemetry.ingest("d", batch(2))
    assert store.telemetry.latest("d", "latency_p50_ms", 9) == ((2.0, 0.5), (1.0, 0.5))
    assert store.telemetry.latest("d", "latency_p50_ms", 1) == ((2.0, 0.5),)
    assert store.telemetry.latest("d", "energy_mj", 9) == ()


def test_samples_are_read_by_device_and_time(store: Store) -> None:
    hot = replace(batch(5), columns={"temperature_c": Column(values=(40.0, 41.0))})
    for device, sent in (("d", batch(1)), ("d", batch(3)), ("d", hot), ("e", batch(3))):
        store.telemetry.ingest(device, sent)
    assert store.telemetry.quantities("d") == ("latency_p50_ms", "temperature_c")
    assert store.telemetry.quantities("nobody") == ()
    assert store.telemetry.next_sample_s("d", 1.5) == 3.0
    assert store.telemetry.next_sample_s("d", 6.0) is None
    first, second = store.telemetry.samples("d", 1.0, 3.0)
    assert (first.device, first.wall_s, first.boot_id) == ("d", 1.0, "b")
    assert (first.tags, first.values) == ({"slot": "s"}, {"latency_p50_ms": 0.5})
    assert second.values == {"latency_p50_ms": None}, "what no sensor said is there as nothing"
    assert len(store.telemetry.samples("d", 0.0, 9.0)) == 6


def test_ragged_batches_are_refused_whole(store: Store) -> None:
    ragged = replace(batch(1), columns={"a": Column(values=(1.0,))})
    with pytest.raises(ValueError, match=r".+"):
        store.telemetry.ingest("d", ragged)
    assert store.telemetry.count("d") == 0


def roll_all(store: Store, rows: int = 3) -> int:
    """Rolls everything up, in small steps; says how many it took."""
    at: str | None = ""
    steps = 0
    while at is not None:
        at, steps = store.telemetry.roll_up(at, rows), steps + 1
    return steps


def sent(
    sequence: int, walls_s: tuple[float, ...], values: tuple[float, ...], **tags: str
) -> TelemetryBatch:
    return TelemetryBatch(
        outbox="o", sequence=sequence, first_available=1, boot_id="b",
        monotonic_ns=tuple(range(len(walls_s))),
        wall_unix_ns=tuple(int(wall * 10**9) for wall in walls_s),
        columns={"x_ms": Column(values=values)}, tags=tags,
    )  # fmt: skip


def test_rollups_hold_each_value_once_whatever_the_steps(store: Store) -> None:
    telemetry = store.telemetry
    for device in ("b", "a"):
        for sequence in range(1, 8):
            walls = (sequence * 1000.0, sequence * 1000.0 + 1)
            telemetry.ingest(device, sent(sequence, walls, (sequence, -0.5), variant="v"))
    assert roll_all(store) > 3
    telemetry.ingest("a", sent(3, (3000.0,), (77.0,)))  # it is there
    telemetry.ingest("a", sent(8, (10.0,), (100.0,), variant="w"))  # late, for an hour that is done
    assert roll_all(store) == 1
    assert roll_all(store) == 1  # nothing is left, and nothing is added again
    hours = telemetry.rollups(Query(quantity="x_ms", device="a"))
    found = {(r.start_s, r.origin.variant): (r.count, r.least, r.most, r.total) for r in hours}
    assert found == {
        (0, "v"): (6, -0.5, 3.0, 4.5),
        (3600, "v"): (8, -0.5, 7.0, 20.0),
        (0, "w"): (1, 100.0, 100.0, 100.0),
    }
    (day,) = pooled(telemetry.rollups(Query(quantity="x_ms", period=Period.DAY)))
    assert (day.count, day.least, day.most, day.origin) == (29, -0.5, 100.0, Origin())
    assert telemetry.held() == Held(rows=29, rows_ever=29, hours=5, days=3)


def test_rollups_are_asked_for_by_whose_they_are_and_when(store: Store) -> None:
    tags = {"profile": "pi5", "variant": "v", "release": "r"}
    for number, device in enumerate(("a", "b"), start=1):
        batch_ = sent(1, (3600.0, 7200.0), (number, number), **{**tags, "release": f"r{number}"})
        store.telemetry.ingest(device, batch_)
    roll_all(store)

    def asked(**more: object) -> list[tuple[int, str, int]]:
        found = store.telemetry.rollups(Query(quantity="x_ms", **more))  # type: ignore[arg-type]
        return sorted((r.start_s, r.origin.device, r.count) for r in found)

    both = [(3600, "a", 1), (3600, "b", 1), (7200, "a", 1), (7200, "b", 1)]
    assert asked() == asked(profile="pi5") == asked(variant="v", profile="pi5") == both
    assert asked(release="r2") == asked(device="b") == [(3600, "b", 1), (7200, "b", 1)]
    assert asked(since_s=7200.0) == both[2:]
    assert asked(until_s=7200.0) == asked(limit=2) == both[:2]
    assert asked(profile="jetson") == asked(device="b", release="r1") == []
    assert store.telemetry.rollups(Query(quantity="y_ms")) == ()
    assert len(store.telemetry.rollups(Query(quantity="x_", prefix=True, device="b"))) == 2


def test_percentiles_are_right_within_two_percent(store: Store) -> None:
    values = tuple(0.1 + number / 1000 for number in range(1000))
    for sequence, start in enumerate(range(0, 1000, 100), start=1):
        part = values[start : start + 100]
        store.telemetry.ingest("a", sent(sequence, (1.0,) * 100, part))
    roll_all(store, rows=250)
    (hour,) = store.telemetry.rollups(Query(quantity="x_ms"))
    assert isinstance(hour, Rollup)
    for share in (0.0, 0.5, 0.95, 1.0):
        assert hour.quantile(share) == pytest.approx(0.1 + share * 0.999, rel=0.021)
    assert hour.mean == pytest.approx(0.5995)


def test_what_no_sensor_can_say_is_kept_as_missing(store: Store) -> None:
    strange = (float("inf"), float("-inf"), float("nan"), 1e300)
    store.telemetry.ingest("a", sent(1, (1.0,) * 4, strange))
    roll_all(store)
    assert store.telemetry.count("a") == 4
    assert store.telemetry.latest("a", "x_ms", 9) == ()
    assert store.telemetry.rollups(Query(quantity="x_ms")) == ()


def test_raw_rows_go_by_age_and_by_number_and_only_once_rolled_up(store: Store) -> None:
    telemetry = store.telemetry
    for sequence in range(1, 11):
        telemetry.ingest("a", sent(sequence, (sequence * 100.0,), (1.0,)))
    assert telemetry.forget(Keep.RAW, 9999.0, 0, 99) == 0  # not rolled up yet
    roll_all(store)
    assert telemetry.forget(Keep.RAW, 0.0, 10, 99) == 0
    assert telemetry.forget(Keep.RAW, 301.0, 10, 2) == 2  # a small step
    assert telemetry.forget(Keep.RAW, 301.0, 10, 99) == 1
    assert telemetry.forget(Keep.RAW, 301.0, 5, 99) == 2
    assert [wall for wall, _ in telemetry.latest("a", "x_ms", 99)] == [1000, 900, 800, 700, 600]
    assert telemetry.latest("a", "x_ms", 99, since_s=900.0) == ((1000.0, 1.0), (900.0, 1.0))
    assert (telemetry.count("a"), telemetry.held().rows, telemetry.held().rows_ever) == (5, 5, 10)
    (hour,) = telemetry.rollups(Query(quantity="x_ms"))
    assert hour.count == 10


def test_the_ack_outlives_the_rows(store: Store) -> None:
    telemetry = store.telemetry
    for sequence in (1, 2, 4):
        telemetry.ingest("a", sent(sequence, (1.0,), (1.0,)))
    roll_all(store)
    assert telemetry.forget(Keep.RAW, 99.0, 99, 99) == 3
    # Sent again since the ack was lost: neither raw nor in a rollup for a second time.
    for sequence, acked in ((1, 2), (2, 2), (4, 2), (3, 4), (4, 4), (1, 4)):
        assert telemetry.ingest("a", sent(sequence, (1.0,), (1.0,))).sequence == acked
    roll_all(store)
    (hour,) = telemetry.rollups(Query(quantity="x_ms"))
    assert (hour.count, telemetry.held().rows_ever, telemetry.count("a")) == (4, 4, 1)
    assert telemetry.forget(Keep.RAW, 99.0, 99, 99) == 1
    assert telemetry.ingest("a", sent(3, (1.0,), (1.0,))).sequence == 4
    assert telemetry.ingest("a", sent(5, (), ())).sequence == 5  # nothing in it, and it counts
    assert telemetry.ingest("a", sent(5, (1.0,), (1.0,))).sequence == 5
    assert telemetry.held().rows_ever == 4


def test_rollups_go_by_age_and_by_number(store: Store) -> None:
    telemetry = store.telemetry
    for sequence in range(1, 11):
        telemetry.ingest("a", sent(sequence, (sequence * 3600.0,), (1.0,)))
    roll_all(store)
    assert (telemetry.held().hours, telemetry.held().days) == (10, 1)
    assert telemetry.forget(Keep.HOUR, 3 * 3600.0, 99, 99) == 2
    assert telemetry.forget(Keep.HOUR, 0.0, 5, 2) == 2
    assert telemetry.forget(Keep.HOUR, 0.0, 5, 99) == 1
    assert telemetry.forget(Keep.HOUR, 0.0, 5, 99) == 0
    left = telemetry.rollups(Query(quantity="x_ms"))
    assert sorted(r.start_s // 3600 for r in left) == [6, 7, 8, 9, 10]
    assert telemetry.forget(Keep.DAY, 86400.0, 99, 99) == 1
    assert (telemetry.held().hours, telemetry.held().days) == (5, 0)


def test_rolling_up_is_all_or_nothing(store: Store) -> None:
    store.telemetry.ingest("a", sent(1, (1.0,), (1.0,)))

    def fail_after() -> None:
        with store.transaction():
            assert store.telemetry.roll_up("", 9) is None
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail_after()
    assert store.telemetry.held().hours == 0
    roll_all(store)
    (hour,) = store.telemetry.rollups(Query(quantity="x_ms"))
    assert hour.count == 1


def test_a_watcher_is_told_what_was_written(store: Store) -> None:
    told: list[str] = []
    store.devices.add(DEVICE)
    store.devices.watch(told.append)
    store.devices.put(replace(DEVICE, online=True))
    store.devices.add(replace(DEVICE, name="other"))
    store.devices.delete("other")
    store.devices.find()
    assert told == ["k", "other", "other"]


def test_what_a_failed_transaction_deleted_stands_where_it_stood(store: Store) -> None:
    for name in "abc":
        store.devices.add(replace(DEVICE, name=name))

    def fails() -> None:
        with store.transaction():
            store.devices.delete("b")
            store.devices.put(replace(DEVICE, name="d", profile="else"))
            store.devices.put(replace(DEVICE, name="a", profile="else"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [d.name for d in store.devices.find()] == ["a", "b", "c"]
    assert [d.name for d in store.devices.find(profile="pi5")] == ["a", "b", "c"]
