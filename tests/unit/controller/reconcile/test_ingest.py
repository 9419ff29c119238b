"""What devices say, believed as far as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controller.domain.fleet import JobStatus
from controller.errors import LeaseLost, NotFound
from controller.reconcile import optimising
from controller.reconcile.ingest import Heard
from controller.reconcile.rolling import RolloutPlan
from controller.testing import bundle, fingerprint
from fitment.core.deployment import (
    CalibrationMode,
    CalibrationReport,
    DeploymentReport,
    DeploymentState,
    Outcome,
    ReportedState,
    SlotReport,
    StudyKind,
)
from fitment.core.fingerprint import Facet
from fitment.core.link import Uplink
from fitment.core.telemetry import Ack, Column, CommandKind, Presence, TelemetryBatch


def batch(values: tuple[float, ...]) -> TelemetryBatch:
    return TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(1,),
        wall_unix_ns=(1,), columns={"latency_p50_ms": Column(values=values)},
    )  # fmt: skip


def test_telemetry_is_stored_and_acknowledged(world: Any) -> None:
    world.join("a")
    (answer,) = world.controller.on_uplink("a", Uplink(telemetry=batch((0.5,))))
    assert (answer.ack.outbox, answer.ack.sequence) == ("o", 1)
    assert world.store.telemetry.count("a") == 1


def test_a_ragged_batch_is_dropped_without_an_ack(world: Any) -> None:
    world.join("a")
    assert world.controller.on_uplink("a", Uplink(telemetry=batch((0.5, 0.6)))) == ()


def test_strangers_and_the_revoked_are_not_heard(world: Any) -> None:
    world.join("a")
    world.controller.revoke("a")
    for name in ("a", "nobody"):
        assert world.controller.on_uplink(name, Uplink(telemetry=batch((0.5,)))) == ()
    assert world.store.telemetry.count("a") == 0


def test_presence(world: Any) -> None:
    world.join("a")
    world.controller.on_uplink("a", Uplink(presence=Presence(online=False, boot_id="b")))
    assert not world.store.devices.get("a").online


def test_a_report_matches_the_profile_and_says_why(world: Any) -> None:
    world.join("a")
    known = world.store.devices.get("a")
    assert known.profile == "generic-x86_64"
    assert "machine x86_64" in known.profile_reason
    unknown = replace(fingerprint(), hardware=Facet.of({"machine": "riscv64"}))
    reported = ReportedState(
        boot_id="b", agent_version="1", observed_generation=0, fingerprint=unknown
    )
    world.controller.on_uplink("a", Uplink(reported=reported))
    known = world.store.devices.get("a")
    assert (known.profile, known.cohort) == ("", None)
    assert "riscv64" in known.profile_reason


def asked(world: Any) -> str:
    """A probe that was put to device a and not answered."""
    world.join("a")
    world.devices["a"].online = False  # it hears nothing, and the controller does not know
    world.controller.register_model(world.model)
    world.controller.start_fits(world.model.id)
    world.controller.tick()
    (study,) = world.store.studies.find()
    return str(study.id)


def test_an_answer_from_another_stack_is_no_answer(world: Any) -> None:
    study = asked(world)
    twin = world.devices["a"]
    twin.seen = fingerprint(runtime="9.9")
    world.controller.on_measurement("a", study, None, twin._table())
    known = world.store.studies.get(study)
    assert known.kernels is None
    assert "another stack" in known.failed


def test_a_second_answer_changes_nothing(world: Any) -> None:
    study = asked(world)
    twin = world.devices["a"]
    world.controller.on_measurement("a", study, None, twin._table())
    first = world.store.studies.get(study)
    world.clock.advance(5.0)
    world.controller.on_measurement("a", study, None, replace(twin._table(), threads=9))
    assert world.store.studies.get(study) == first


def test_nobody_answers_for_another(world: Any) -> None:
    study = asked(world)
    world.join("b")
    with pytest.raises(NotFound, match="no study"):
        world.controller.on_measurement("b", study, None, world.devices["b"]._table())


def test_what_the_device_cannot_run_is_not_chosen(world: Any) -> None:
    world.join("a", gives_up=("int8",))
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id)
    world.until(lambda: world.job(job.id).status is JobStatus.DONE)
    choice = world.job(job.id).choice
    names = {v.bundle.variant: v.name for v in world.variants}
    assert names[choice.chosen] == "fp32"
    rejected = {names[digest]: why for digest, why in choice.rejected.items()}
    assert "could not run it: the device gave it up" in rejected["int8"]


def test_a_device_that_gives_up_all_its_studies_does_not_hold_up_the_fit(world: Any) -> None:
    world.join("a", gives_up=("probe-onnx", "fp32", "int8"))
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id)
    world.until(lambda: world.job(job.id).status is JobStatus.DONE)
    failed = {s.failed for s in world.store.studies.find()}
    assert failed == {"the device gave it up; see its notes"}
    assert "0.400 ms p50 predicted" in world.job(job.id).choice.reason


def test_a_device_that_falls_silent_does_not_hold_up_the_fit(world: Any) -> None:
    asked(world)
    world.clock.advance(500.0)
    world.settle()
    (job,) = world.store.jobs.find()
    assert job.status is JobStatus.CONFIRMING  # it is still thought to be online
    world.devices["a"].disconnect()
    world.clock.advance(500.0)
    world.settle()
    (job,) = world.store.jobs.find()
    assert job.status is JobStatus.DONE
    assert "predicted" in job.choice.reason
    assert {s.failed for s in world.store.studies.find()} == {"no answer in time"}


def test_a_fit_that_fails_says_why(world: Any) -> None:
    world.join("a")
    world.fits.error = "the workload needs a camera"
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id)
    world.until(lambda: world.job(job.id).status is JobStatus.FAILED)
    assert world.job(job.id).error == "the workload needs a camera"
    assert world.store.studies.find(kind=StudyKind.BENCHMARK) == ()


def test_a_device_without_a_runtime_in_common_fails_the_fit_with_advice(world: Any) -> None:
    bare = replace(fingerprint(), stack=Facet.of({}))
    world.join("a", seen=bare)
    world.devices["a"].change(bare)
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id)
    world.controller.tick()
    assert "the device has none: pip install" in world.job(job.id).error


def test_what_a_stand_in_timed_does_not_count_for_a_real_board(world: Any) -> None:
    world.join("host", seen=fingerprint(emulated=True))
    world.devices["host"].report()
    world.released()
    assert len(world.store.studies.find(kind=StudyKind.PROBE)) == 1
    world.join("board")
    world.controller.start_fits(world.model.id, effort="thorough")
    world.controller.tick()
    probes = world.store.studies.find(kind=StudyKind.PROBE)
    assert [s.device for s in probes] == ["host", "board"]


def test_an_overlay_is_kept_so_that_the_running_bytes_can_be_built(world: Any) -> None:
    world.join("a")
    world.controller.create_rollout(world.released().id, RolloutPlan())
    world.settle()
    (deployment,) = world.store.deployments.find()
    report = CalibrationReport(
        id="c", mode=CalibrationMode.MOMENTS, applied=True, reason="drift 0.3", drift=0.3
    )
    world.controller.on_calibration("a", deployment.id, report, b"overlay")
    kept = world.store.deployments.get(deployment.id)
    assert kept.calibration == report
    assert world.blobs.read(kept.overlay, 0, 99) == b"overlay"
    with pytest.raises(NotFound):
        world.controller.on_calibration("b", deployment.id, report, b"")


def test_a_model_is_one_version_per_content(world: Any) -> None:
    first = world.controller.register_model(world.model)
    again = world.controller.register_model(replace(world.model, id="other"))
    assert again == first
    with pytest.raises(Exception, match="raise `version`"):
        world.controller.register_model(replace(world.model, id="third", digest="new"))
    assert world.controller.find_model("m") == first
    with pytest.raises(NotFound, match="no model 'x'"):
        world.controller.find_model("x")
    assert bundle("x").target.startswith("bundles/")


def test_a_report_that_was_overtaken_is_dropped(world: Any) -> None:
    """A message may arrive late: it would look as if the device had gone back by itself."""
    twin = world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    before = world.store.devices.get("a").reported
    world.until(lambda: world.runs("a") == "int8")
    world.settle(5)
    now = world.store.devices.get("a").reported
    assert now.observed_generation > before.observed_generation
    world.controller.on_uplink("a", Uplink(reported=before))
    assert world.store.devices.get("a").reported == now
    rebooted = replace(before, boot_id="another")
    world.controller.on_uplink("a", Uplink(reported=rebooted))
    assert world.store.devices.get("a").reported == rebooted, "a new boot may know less"
    assert twin.online


def test_a_device_that_counts_as_away_and_sends_samples_is_asked_to_report(world: Any) -> None:
    """A broker that ran full has lost what it said when it came."""
    twin = world.join("a")
    world.controller.on_link_down("a")
    command, ack = world.controller.on_uplink("a", Uplink(telemetry=batch((0.5,))))
    assert command.command.kind is CommandKind.REPORT
    assert ack.ack.sequence == 1
    world.controller.on_uplink("a", Uplink(reported=replace(twin_report(world), notes=("here",))))
    assert world.store.devices.get("a").online
    (answer,) = world.controller.on_uplink("a", Uplink(telemetry=batch((0.5,))))
    assert answer.ack is not None
    assert twin.online


def test_a_report_alone_tells_that_a_device_is_back(world: Any) -> None:
    """What said so before it may be lost; it has missed what was desired all the same."""
    world.join("a")
    report = twin_report(world)
    world.controller.on_link_down("a")
    world.published.clear()
    world.controller.on_uplink("a", Uplink(reported=report))
    assert world.published == ["a"]
    world.controller.on_uplink("a", Uplink(reported=report))
    assert world.published == ["a"], "it has not been away"


def twin_report(world: Any) -> Any:
    return world.store.devices.get("a").reported


def test_of_several_reports_at_once_the_last_counts_unless_it_was_overtaken(world: Any) -> None:
    world.join("a")
    known = replace(twin_report(world), observed_generation=5)
    newer = replace(known, observed_generation=7, notes=("newer",))
    older = replace(known, observed_generation=6, notes=("overtaken",))
    heard = [Heard(device="a", uplink=Uplink(reported=said)) for said in (known, newer, older)]
    world.controller.on_heard(heard)
    assert twin_report(world) == newer
    assert world.store.devices.get("a").generation > 7, "it has seen more than we remember"


def test_an_end_counts_also_where_an_older_report_comes_after_it(world: Any) -> None:
    """Both together: the device says it once, so nothing else would ever end the deployment."""
    twin = world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.controller.tick()
    (made,) = world.store.deployments.find(device="a")
    under_way, ended = (
        DeploymentReport(
            deployment=made.id, slot=made.slot, variant=made.variant, state=state, outcome=outcome
        )
        for state, outcome in (
            (DeploymentState.TRIAL, None), (DeploymentState.IDLE, Outcome.FAILED),
        )
    )  # fmt: skip
    report = twin_report(world)
    said = [replace(report, deployments=(one,)) for one in (ended, under_way)]
    world.controller.on_heard([Heard(device="a", uplink=Uplink(reported=r)) for r in said])
    assert world.store.deployments.get(made.id).outcome is Outcome.FAILED
    assert twin_report(world).deployments == (under_way,)
    assert twin.online


def test_many_devices_are_taken_in_as_if_one_after_the_other(world: Any) -> None:
    for name in ("a", "b"):
        world.join(name)
    world.controller.revoke("b")
    heard = [
        Heard(device=name, uplink=Uplink(telemetry=batch(values)))
        for name in ("a", "b", "nobody")
        for values in ((0.5,), (0.5, 0.6))
    ]
    ((name, answer),) = world.controller.on_heard(heard)
    assert (name, answer.ack.sequence) == ("a", 1)
    assert world.controller.on_heard([Heard(device=n, up=False) for n in ("a", "nobody")]) == ()
    assert world.store.telemetry.count("a") == 1
    assert not world.store.devices.get("a").online


def test_samples_count_for_what_served_when_they_came(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a report of the switch comes in the same breath."""
    world.join("a")
    reported = twin_report(world)
    slot = SlotReport(slot="m", variant="sha256:old", name="old", release="before", serving=True)
    before = replace(reported, slots=(slot,))
    world.controller.on_uplink("a", Uplink(reported=before))
    after = replace(before, slots=(replace(slot, variant="sha256:new", release="after"),))
    tags = {"slot": "m", "variant": "sha256:old"}
    old = replace(batch((0.5,)), columns={"latency_p50_ms": Column(values=(0.5,))}, tags=tags)
    heard = [Heard(device="a", uplink=u) for u in (Uplink(telemetry=old), Uplink(reported=after))]
    stored: list[TelemetryBatch] = []

    def ingest(batches: Sequence[tuple[str, TelemetryBatch]]) -> tuple[Ack, ...]:
        stored.extend(batch for _, batch in batches)
        return tuple(Ack(outbox=b.outbox, sequence=b.sequence) for _, b in batches)

    monkeypatch.setattr(world.store.telemetry, "ingest_many", ingest)
    world.controller.on_heard(heard)
    assert [b.tags["release"] for b in stored] == ["before"]


def test_what_a_tick_could_not_store_is_looked_at_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        world.join(name)
    world.settle()
    for name in "ab":
        world.devices[name].change(fingerprint(runtime="1.32"))
    real, failed = optimising.look, []

    def look(context: Any, name: str) -> bool:
        if name == "b" and not failed:
            failed.append(name)
            raise OSError("the disk is full")
        return real(context, name)

    monkeypatch.setattr(optimising, "look", look)
    with pytest.raises(OSError, match="full"):
        world.controller.tick()
    seen: list[str] = []
    monkeypatch.setattr(optimising, "look", lambda _context, name: seen.append(name))
    world.controller.tick()
    assert seen == ["a", "b"]


def test_what_could_not_be_asked_for_is_asked_for_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.join("a")
    release = world.released()
    world.settle()
    context = world.controller.context
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))

    def lost() -> None:
        raise LeaseLost("not renewed in time")

    refusing = replace(context, must_act=lost)
    monkeypatch.setattr(world.controller, "context", refusing)
    with pytest.raises(LeaseLost):
        world.controller.tick()
    monkeypatch.setattr(world.controller, "context", context)
    world.settle()
    assert world.runs("a") == "int8"
