"""One suite for every store: the in-memory twin and SQLite on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.domain import fleet
from controller.errors import Conflict
from controller.store import open_store
from controller.store.base import INDEXED, KEYS, Store
from fitment.core.deployment import BundleRef, DeploymentState, Outcome, StudyKind
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.telemetry import Column, TelemetryBatch

COHORT = fleet.Cohort(profile="p", hardware="sha256:h", stack="sha256:s")
BUNDLE = BundleRef(
    variant="sha256:v", name="fp32", archive="sha256:a", archive_bytes=1, target="bundles/x.tar.xz"
)
FACET = Facet.of({"cpu": "a76"})
SEEN = Fingerprint(chassis=FACET, hardware=FACET, stack=FACET, condition=FACET)
DEVICE = fleet.Device(name="k", profile="pi5", labels={"site": "north"}, serials=("1", "2"))
DEPLOYMENT = fleet.Deployment(
    id="k", rollout="r", release="r", device="d", slot="s", variant="v", wave=0, created_at=1.0,
    state=DeploymentState.FETCHING, cohort=COHORT, fingerprint=SEEN,
)  # fmt: skip
STUDY = fleet.StudyRecord(
    id="k", kind=StudyKind.PROBE, device="d", cohort=COHORT, bundle=BUNDLE, created_at=1.0
)
RECORDS = {
    "devices": DEVICE,
    "tokens": fleet.Token(hash="k", created_at=1.0, expires_at=2.0),
    "models": fleet.ModelVersion(
        id="k", name="m", version="1", digest="d", snapshot="/s", registered_at=1.0,
        budget=fleet.Budget(accuracy_drop_max=0.01), profile_budgets={"pi5": fleet.Budget()},
    ),
    "jobs": fleet.FitJob(
        id="k", model="m", cohort=COHORT, status=fleet.JobStatus.PROBING, created_at=1.0,
        choice=fleet.Choice(chosen="v", reason="fast", rejected={"w": "slow"}),
    ),
    "studies": STUDY,
    "releases": fleet.Release(id="k", model="m", slot="s", counter=3, created_at=1.0),
    "rollouts": fleet.Rollout(
        id="k", release="r", state=fleet.RolloutState.RUNNING, created_at=1.0
    ),
    "deployments": DEPLOYMENT,
    "triggers": fleet.Trigger(
        id="k", kind=fleet.TriggerKind.STACK_CHANGED, device="d", model="m", cohort=COHORT,
        reason="r", created_at=1.0,
    ),
    "audit": fleet.AuditEntry(
        id="k", at=1.0, actor="controller", action="a", subject="s", details={"n": "1"}
    ),
}  # fmt: skip


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


def test_ragged_batches_are_refused_whole(store: Store) -> None:
    ragged = replace(batch(1), columns={"a": Column(values=(1.0,))})
    with pytest.raises(ValueError, match=r".+"):
        store.telemetry.ingest("d", ragged)
    assert store.telemetry.count("d") == 0
