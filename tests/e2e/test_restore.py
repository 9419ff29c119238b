"""Yesterday's backup restored: no device is stranded, and nothing goes back by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.domain.fleet import RolloutState
from fitment.core.deployment import Outcome
from tests.e2e.processes import call
from tests.e2e.seeded import Fleet, seed

pytestmark = pytest.mark.e2e

DEVICES = ("edge-1", "edge-2")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, tmp_path / "fleet")
    yield made
    made.close()


def test_a_fleet_goes_on_with_a_controller_of_yesterday(fleet: Fleet, tmp_path: Path) -> None:
    variants = seed(fleet.data, tmp_path, ("one", "two"))
    fleet.start()
    for name in DEVICES:
        fleet.join(name)
    fleet.wait("profiles", fleet.known)
    _, under_way = fleet.roll_out("one", wait=False)
    fleet.wait("its orders", lambda: len(open_ones(fleet, under_way)) == len(DEVICES))
    said = call(fleet.env, "controller", "backup", str(tmp_path / "yesterday.backup"))
    assert said["files"] > 10
    fleet.wait("its end", lambda: fleet.state(under_way) == "completed")
    fleet.kill()
    seed(fleet.data, tmp_path, ("three",))  # of this the backup knows nothing
    fleet.start()
    fleet.wait("the devices", fleet.known)
    fleet.join("late")  # nor of this
    fleet.wait("the devices", fleet.known)
    newer, _ = fleet.roll_out("three")
    ran = {name: fleet.on_disk(name) for name in fleet.agents}
    assert {facts.release for facts in ran.values()} == {newer.id}
    fleet.kill()

    place = tmp_path / "restored"
    call(
        fleet.env, "controller", "restore", str(tmp_path / "yesterday.backup"),
        "--data-dir", str(place),
    )  # fmt: skip
    fleet.start(place)
    fleet.wait("a device that is not on record", lambda: "late" in notes(fleet))
    call(fleet.env, "controller", "device", "readmit", "late")
    fleet.wait("the devices", fleet.known)
    fleet.wait("word of what had ended", lambda: not open_ones(fleet, under_way))
    told = fleet.client.rollout(under_way)
    assert told.rollout.state is RolloutState.PAUSED
    assert {d.outcome for d in told.deployments} == {Outcome.COMMITTED}
    fleet.wait("word of each device", lambda: audited(fleet)["unknown_release"] == len(ran))
    actions = audited(fleet)
    assert actions["restored"] == 1
    assert actions["generation_fast_forwarded"] == len(ran)
    assert actions["counter_fast_forwarded"] == 1  # the first device's word was enough
    assert "restored from a backup" in notes(fleet)
    assert "not on record" not in notes(fleet)
    assert fleet.client.releases()[-1].counter == newer.counter - 1

    fleet.client.change_rollout(under_way, "resume")  # to nobody: all are ahead of it
    fleet.wait("its end", lambda: fleet.state(under_way) == "completed")
    assert {name: fleet.on_disk(name) for name in ran} == ran
    further, _ = fleet.roll_out("two")
    assert further.counter == newer.counter + 1
    for name in ran:
        facts = fleet.on_disk(name)
        assert (facts.release, facts.variant) == (further.id, variants["two"].bundle.variant)
        assert set(fleet.ends_on_disk(name)) == {"committed"}
    log = (tmp_path / "edge-1.log").read_text()
    assert "rollback" not in log
    assert "older metadata" not in log


def audited(fleet: Fleet) -> Counter[str]:
    """How often each action is in the audit log."""
    return Counter(entry.action for entry in fleet.client.audit(limit=10_000))


def open_ones(fleet: Fleet, rollout: str) -> list[str]:
    return [d.id for d in fleet.client.rollout(rollout).deployments if d.outcome is None]


def notes(fleet: Fleet) -> str:
    return " ".join(fleet.client.status().notes)
