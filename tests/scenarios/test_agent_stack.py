"""A variant laid by for an announced stack: fetched before, served from the first moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.domain.ladder import Readings
from agent.jobs import CheckJob, StageJob
from agent.testing import answers_wrongly, checked, fails, staged
from fitment.core.deployment import UNDERSTANDS_STACKS, Lesser, Pressure, SlotReport

from .agent_world import SLOT, World, bundle, fingerprint
from .test_agent_ladder import laddered, serves

TODAY, NEXT, OTHER = (fingerprint(stack=version) for version in ("1.20", "1.30", "1.40"))
CHEAP = Lesser(bundle=bundle("v2"), relieves=(Pressure.HEAT,))
COMING = Lesser(bundle=bundle("v4"), stacks=(NEXT.stack.hash,), reason="for 1.30", coverage_min=0.5)
HOT = Readings(temperature_c=84.0, throttle_c=85.0)


def ready(tmp_path: Path, **script: object) -> World:
    world = World(tmp_path, {k: [v] for k, v in script.items()})  # type: ignore[misc]
    world.wish(laddered(rungs=(CHEAP, COMING)))
    world.finish("d-1")
    world.run(30)
    return world


def slot_of(world: World) -> SlotReport:
    found = world.slot()
    assert found is not None
    return found


def coming(job: CheckJob) -> bool:
    return job.variant == bundle("v4").variant


def test_it_is_laid_by_without_being_asked_on_a_stack_that_is_not_its_own(tmp_path: Path) -> None:
    """It may not even load today: its runtime comes with the update."""
    world = ready(tmp_path, check=lambda j: fails("model")(j) if coming(j) and not j.files_only
                  else checked(j))  # fmt: skip
    slot = slot_of(world)
    assert [(r.name, r.ready, r.reason, r.stacks) for r in slot.ladder] == [
        ("v2", True, "", ()), ("v4", True, "for 1.30", (NEXT.stack.hash,)),
    ]  # fmt: skip
    assert (slot.rung, serves(world)) == (0, "v1")
    of_it = [job for worker, job in world.runner.started
             if worker == "stage" and job.variant == bundle("v4").variant]  # fmt: skip
    assert [job.runtimes for job in of_it] == [()], "that stack may bring the runtime it needs"
    assert UNDERSTANDS_STACKS in world.reported.understands


def test_it_serves_from_the_first_look_after_the_boot_and_offline(tmp_path: Path) -> None:
    world = ready(tmp_path)
    world.kill()
    world.device = NEXT
    world.runner.started.clear()
    world.boot(reachable=False)
    world.steps(2)
    assert serves(world) == "v4", "before any check: today's variant was never tested here"
    world.run(30)
    assert serves(world) == "v4"
    jobs = [job for worker, job in world.runner.started if worker == "check"]
    assert coming(jobs[0]), "what serves is checked first"
    assert not jobs[0].files_only
    world.boot()
    world.run(10)
    slot = slot_of(world)
    assert (slot.rung, slot.variant, slot.serving) == (2, bundle("v1").variant, True)
    assert slot.rung_reason == "rung 2 was made for this stack"


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (lambda j: answers_wrongly(j) if coming(j) else checked(j), "answers the golden inputs"),
        (lambda j: fails("model", permanent=True)(j) if coming(j) else checked(j), "does not run"),
        (lambda j: replace(checked(j), integer_coverage=0.1 if coming(j) else 1.0),
         "0.10 of its heavy operators run in integers on this stack, its order asks for 0.50"),
    ],
)  # fmt: skip
def test_one_that_fails_its_check_gives_way_to_what_there_is(
    tmp_path: Path, check: object, why: str
) -> None:
    world = ready(tmp_path)
    world.runner.script["check"] = [check]  # type: ignore[list-item]
    world.device = NEXT
    world.run(60)
    slot = slot_of(world)
    assert (serves(world), slot.rung, slot.serving) == ("v1", 0, True)
    assert why in slot.ladder[1].reason
    assert not slot.ladder[1].ready


def test_there_and_back_and_on_to_one_that_nobody_announced(tmp_path: Path) -> None:
    world = ready(tmp_path)
    for device, name in ((NEXT, "v4"), (TODAY, "v1"), (NEXT, "v4"), (OTHER, "v1"), (TODAY, "v1")):
        world.device = device
        world.run(30)
        assert serves(world) == name
        assert slot_of(world).ladder[1].ready
    assert {job.files_only for worker, job in world.runner.started
            if worker == "check" and coming(job)} == {True, False}  # fmt: skip


def test_heat_never_leads_to_it_elsewhere_and_leads_away_from_it_at_home(tmp_path: Path) -> None:
    world = ready(tmp_path)
    world.readings = HOT
    world.run(200)
    assert serves(world) == "v2"
    world.runner.script["check"] = [
        lambda j: answers_wrongly(j) if j.variant == bundle("v2").variant else checked(j)
    ]
    world.device = OTHER
    world.run(200)
    assert serves(world) == "v1", "rather none that relieves than one for another stack"
    world.runner.script["check"] = [checked]
    world.device = NEXT
    world.run(200)
    assert serves(world) == "v2"


def test_what_cannot_be_held_beside_the_other_is_said(tmp_path: Path) -> None:
    def full(job: StageJob) -> object:
        if job.variant == bundle("v4").variant:
            return fails("disk_full", permanent=True)(job)
        return staged(job)

    world = World(tmp_path, {"stage": [full]})
    world.wish(laddered(rungs=(COMING,)))
    world.finish("d-1")
    world.run(300)
    (rung,) = slot_of(world).ladder
    assert not rung.ready
    assert "disk_full" in rung.reason
    assert serves(world) == "v1"


def test_damage_to_what_is_laid_by_is_found_and_mended(tmp_path: Path) -> None:
    world = ready(tmp_path)
    damaged = [True]

    def check(job: CheckJob) -> object:
        if coming(job) and damaged:
            damaged.clear()
            return fails("bundle_damaged", permanent=True)(job)
        return checked(job)

    world.runner.script["check"] = [check]
    world.boot_id = "another"
    world.boot()
    world.run(60)
    assert not damaged
    assert [r.ready for r in slot_of(world).ladder] == [True, True]
    world.device = NEXT
    world.run(30)
    assert serves(world) == "v4"
    assert world.slots.rung(SLOT) == 2
