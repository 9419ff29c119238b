"""A restored store: devices have seen more than it knows, and their word counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.catching_up import LEAP, believed
from controller.errors import Conflict, NotFound, TrustError, UserError
from controller.reconcile import recovery
from controller.reconcile.rolling import RolloutPlan
from fitment.core.deployment import DeploymentReport, DeploymentState, Outcome, SlotReport


def test_how_far_a_word_is_believed() -> None:
    assert believed(3, 9) == 9
    assert believed(9, 3) == 9
    assert believed(3, 3 + LEAP) == 3 + LEAP
    assert believed(3, 4 + LEAP) == 3
    assert believed(3, 2**63 - 1) == 3


def test_a_liar_uses_up_no_numbers(world: Any) -> None:
    liar = world.join("liar")
    liar.generations.append(2**63 - 1)
    liar.slots["m"] = SlotReport(slot="m", variant="sha256:x", release="r-9", counter=2**63 - 1)
    liar.report()
    world.released()
    (release,) = world.store.releases.find()
    assert release.counter == 1
    assert 0 < world.store.devices.get("liar").generation < 10
    assert "counter_fast_forwarded" not in world.actions()


def seen_more(world: Any, counter: int = 7) -> Any:
    """A device that ran a release and saw orders of which nothing is on record."""
    ahead = world.join("a")
    ahead.generations.append(40)
    ahead.slots["m"] = SlotReport(
        slot="m", variant="sha256:later", name="later", release="r-later", counter=counter,
        golden_ok=True, serving=True,
    )  # fmt: skip
    return ahead


def test_numbers_go_on_above_what_a_device_has_seen(world: Any) -> None:
    ahead = seen_more(world)
    ahead.report()
    device = world.store.devices.get("a")
    assert device.generation > 40
    said = {e.action: e for e in world.store.audit.find()}
    assert said["generation_fast_forwarded"].details["seen"] == "40"
    assert said["unknown_release"].details["release"] == "r-later"
    assert said["counter_fast_forwarded"].details["counter"] == "7"
    ahead.report()
    ahead.report()
    assert world.actions().count("unknown_release") == 1
    assert world.actions().count("counter_fast_forwarded") == 1
    release = world.released()
    assert release.counter == 8
    made = world.controller.create_rollout(release.id, RolloutPlan())
    world.until(lambda: world.rollout(made.id).state is fleet.RolloutState.COMPLETED)
    assert ahead.slots["m"].counter == 8


def test_what_it_runs_is_not_taken_back(world: Any) -> None:
    old = world.join("b")
    first = world.released()
    made = world.controller.create_rollout(first.id, RolloutPlan())
    world.until(lambda: world.rollout(made.id).state is fleet.RolloutState.COMPLETED)
    assert old.slots["m"].counter == 1
    old.slots["m"] = SlotReport(slot="m", variant="sha256:l", release="r-later", counter=5)
    world.settle()
    assert old.slots["m"].release == "r-later"
    with pytest.raises(UserError, match="b runs a later release of 'm'.*fitment release create"):
        world.controller.create_rollout(first.id, RolloutPlan())


def test_an_unsigned_release_gets_a_higher_number_and_a_signed_one_stays(world: Any) -> None:
    world.join("b")
    signed = world.released()
    waiting = replace(signed, id="waits", counter=2, approved_at=0.0)
    world.store.releases.add(waiting)
    seen_more(world, counter=2).report()
    assert world.store.releases.get("waits").counter == 3
    assert world.store.releases.get(signed.id).counter == 1
    assert world.actions().count("release_renumbered") == 1


def test_a_deployment_that_is_not_on_record_is_noted_once(world: Any) -> None:
    device = world.join("a")
    device.reports["d-x"] = DeploymentReport(
        deployment="d-x", slot="m", variant="sha256:" + "0" * 64, state=DeploymentState.IDLE,
        outcome=Outcome.CANCELLED, reasons=("the controller no longer asks for it",),
    )  # fmt: skip
    for _ in range(3):
        device.report()
    (entry,) = world.store.audit.find(action="unknown_deployment")
    assert entry.details["outcome"] == "cancelled"


def test_the_first_start_after_a_restore(tmp_path: Path, world: Any) -> None:
    world.join("a")
    release = world.released()
    made = world.controller.create_rollout(release.id, RolloutPlan())
    text, _ = world.controller.create_token()
    world.store.models.put(replace(world.model, snapshot=str(tmp_path / "old" / "models" / "x")))
    (job,) = world.store.jobs.find()
    world.store.jobs.put(replace(job, folder=str(tmp_path / "old" / "jobs" / job.id)))
    for folder in (job.id, "probe-onnx"):
        (tmp_path / "new" / "jobs" / folder).mkdir(parents=True)
        (tmp_path / "new" / "jobs" / folder / "result.json").write_text(json.dumps({}))
    origin = recovery.Origin(
        backup_at=world.clock(), was=tmp_path / "old", now=tmp_path / "new"
    )  # fmt: skip
    for _ in range(2):  # a start that was killed does it again
        notes = recovery.begin(world.controller.context, origin)
    assert "1970-01-12" in notes[0]
    assert "revoke it again" in notes[1]
    assert world.rollout(made.id).state is fleet.RolloutState.PAUSED
    world.clock.advance(1.0)
    with pytest.raises(TrustError, match="has expired"):
        world.controller.admit(text, "b", b"")
    assert world.store.models.find()[0].snapshot == str(tmp_path / "new" / "models" / "x")
    assert world.store.jobs.find()[0].folder == str(tmp_path / "new" / "jobs" / job.id)
    assert (tmp_path / "new" / "jobs" / job.id / "result.json").exists()  # it is over
    assert not (tmp_path / "new" / "jobs" / "probe-onnx" / "result.json").exists()


def test_a_device_that_is_not_on_record_waits_for_an_operator(world: Any) -> None:
    lost = world.join("lost")
    world.store.devices.delete("lost")
    lost.report()
    assert not world.controller.is_allowed("lost", "17")
    assert not world.controller.is_allowed("lost", "17")
    assert world.store.devices.get("lost") is None
    assert world.controller.strangers() == ("lost",)
    with pytest.raises(NotFound, match="has called itself 'nobody'"):
        world.controller.readmit("nobody")
    world.controller.readmit("lost")
    assert world.controller.is_allowed("lost", "17")
    assert world.controller.strangers() == ()
    with pytest.raises(Conflict, match="is on record"):
        world.controller.readmit("lost")
    lost.report()
    assert world.store.devices.get("lost").profile
    world.controller.revoke("lost")
    assert world.trust.ca.is_revoked("17")  # the serial that it showed is known
    assert world.actions().count("unknown_device") == 2  # by the link, and with its serial


def test_a_revoked_certificate_is_no_stranger(world: Any) -> None:
    world.trust.revoke("18", 1.0)
    assert not world.controller.is_allowed("gone", "18")
    assert world.controller.strangers() == ()
