"""Ladders from a release to a device's signed order, and what comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.reconcile import ingest, releasing
from controller.reconcile.rolling import RolloutPlan
from controller.testing import variant
from fitment.core import plain
from fitment.core.bundle import ReleaseManifest
from fitment.core.deployment import Assignment, Pressure, RungReport

WIDE = fleet.Budget(accuracy_drop_max=0.01, lesser_accuracy_drop_max=0.25)
PROFILE = "generic-x86_64"


def order(device: Any) -> Assignment:
    (signed,) = device.desired.assignments
    return plain.from_plain(Assignment, json.loads(signed.payload))


def rolled_out(world: Any, release: fleet.Release) -> Assignment:
    device = world.devices["a"]
    device.behave = lambda _: None
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: device.desired is not None and device.desired.assignments)
    return order(device)


def fitted(world: Any, budget: fleet.Budget, **asked: bool) -> fleet.Release:
    world.model = replace(world.model, budget=budget)
    world.join("a")
    world.released()
    return world.controller.create_release(world.model.id, **asked)


def test_no_ladder_unless_it_is_asked_for(world: Any) -> None:
    release = fitted(world, fleet.Budget(accuracy_drop_max=0.01))
    assert (release.ladders, release.ladder_notes) == ({}, {})
    made = rolled_out(world, release)
    assert made.ladder == ()


@pytest.mark.parametrize(
    ("budget", "asked", "names"),
    [
        (fleet.Budget(accuracy_drop_max=0.01), {"with_fallback": True}, ["fp32"]),
        (WIDE, {}, ["tiny", "fp32"]),
    ],
    ids=["flag", "budget"],
)
def test_a_ladder_is_signed_in_the_release_and_in_the_order(
    budget: fleet.Budget, asked: dict[str, bool], names: list[str], world: Any
) -> None:
    release = fitted(world, budget, **asked)
    cohort = world.store.devices.get("a").cohort.key
    assert set(release.ladders) == {cohort, PROFILE} == set(release.variants)
    digests = [rung.variant for rung in release.ladders[cohort]]
    made = rolled_out(world, release)
    assert [lesser.bundle.name for lesser in made.ladder] == names
    assert [lesser.bundle.variant for lesser in made.ladder] == digests
    assert made.ladder[-1].portable
    if len(names) > 1:
        assert made.ladder[0].relieves == (Pressure.HEAT, Pressure.BATTERY)
    assert world.store.releases.get(release.id) == release


SLIM = (
    variant("int8-slim50", 0.35, drop=0.01), variant("int8-slim25", 0.2, drop=0.03)
)  # fmt: skip
"""Widths of one network: the wide one becomes the choice, the narrow one its rung."""


@pytest.mark.parametrize(
    ("lesser", "names", "note"),
    [
        (0.05, ["int8-slim25", "fp32"], ""),
        (None, ["fp32"], "set lesser_accuracy_drop_max in the budget"),
    ],
)
def test_a_fit_that_was_asked_for_widths_gives_the_device_a_ladder_of_them(
    lesser: float | None, names: list[str], note: str, world: Any
) -> None:
    world.variants = (world.variants[0], *SLIM)
    world.start()
    world.model = replace(
        world.model,
        budget=fleet.Budget(accuracy_drop_max=0.02, lesser_accuracy_drop_max=lesser),
    )
    world.join("a")
    world.devices["a"].times_ms = {"fp32": 1.0, "int8-slim50": 0.35, "int8-slim25": 0.2}
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id, rungs=("slimmable",))
    world.until(lambda: world.job(job.id).status is fleet.JobStatus.DONE)
    assert world.fits.requests[job.id]["rungs"] == ["slimmable"]
    release = world.controller.create_release(world.model.id)
    release = world.controller.approve_release(release.id)
    assert note in release.ladder_notes[PROFILE]
    told = rolled_out(world, release)
    assert told.bundle.name == "int8-slim50"
    assert [rung.bundle.name for rung in told.ladder] == names


def test_a_triggered_fit_makes_the_rungs_that_the_one_before_it_made(world: Any) -> None:
    world.join("a")
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id, rungs=("slimmable",))
    world.until(lambda: world.job(job.id).status is fleet.JobStatus.DONE)
    again = world.controller.start_fit(world.model.id, job.cohort, effort="thorough", trigger="t")
    assert again.rungs == ("slimmable",)
    plain_fit = world.controller.start_fit(world.model.id, job.cohort, effort="thorough")
    assert plain_fit.id == again.id  # what runs makes all that is asked for, and more


def test_what_the_manifest_says_is_what_was_approved(world: Any) -> None:
    release = fitted(world, WIDE)
    manifest = approved(world, release)
    assert {k: tuple(r.variant for r in v) for k, v in release.ladders.items()} == manifest.ladders


def approved(world: Any, release: fleet.Release) -> ReleaseManifest:
    folder = world.trust.repository
    listed = json.loads(folder.read(_newest(world, "targets")))["signed"]["targets"]
    sha = listed[f"releases/{release.id}.json"]["hashes"]["sha256"]
    return plain.from_plain(
        ReleaseManifest, json.loads(folder.read(f"releases/{sha}.{release.id}.json"))
    )


def _newest(world: Any, role: str) -> str:
    snapshot = json.loads(world.trust.repository.read("timestamp.json"))["signed"]["meta"]
    version = snapshot["snapshot.json"]["version"]
    meta = json.loads(world.trust.repository.read(f"{version}.snapshot.json"))["signed"]["meta"]
    return f"{meta[f'{role}.json']['version']}.{role}.json"


def test_a_trigger_keeps_the_ladder_that_a_release_before_it_had(world: Any) -> None:
    fitted(world, fleet.Budget(accuracy_drop_max=0.01), with_fallback=True)
    (job,) = world.store.jobs.find(model=world.model.id)
    made = releasing.create(world.controller.context, world.model.id, jobs=(job.id,), trigger=True)
    assert [len(rungs) for rungs in made.ladders.values()] == [1]


def test_the_portable_rung_is_of_another_runtime_where_there_is_one(world: Any) -> None:
    other = replace(variant("fp32-litert", 2.0), scheme="fp32", runtime="litert", format="tflite")
    world.variants = (*world.variants, other)
    world.start()
    release = fitted(world, fleet.Budget(accuracy_drop_max=0.01), with_fallback=True)
    (rung,) = release.ladders[PROFILE]
    assert rung.variant == other.bundle.variant


def test_samples_of_a_rung_belong_to_the_slots_release(world: Any) -> None:
    release = fitted(world, WIDE)
    device = world.devices["a"]
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.runs("a") != "" and device.slots["m"].release == release.id)
    rung = RungReport(rung=1, variant="sha256:lesser", name="tiny", ready=True)
    device.slots["m"] = replace(device.slots["m"], ladder=(rung,), rung=1, rung_reason="heat")
    device.report()
    known = world.store.devices.get("a")
    assert known.reported.slots[0].rung_reason == "heat"
    tags = ingest._tags(known, {"slot": "m", "variant": "sha256:lesser", "rung": "1"})
    assert (tags["release"], tags["rung"]) == (release.id, "1")
    other = ingest._tags(known, {"slot": "m", "variant": "sha256:other", "rung": "1"})
    assert other["release"] == ""
