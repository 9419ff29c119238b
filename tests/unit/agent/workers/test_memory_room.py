"""Whether there is memory for a model, by the machine and its cgroups, of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.actions import classify
from agent.domain.events import Event
from agent.domain.record import DeploymentRecord
from agent.workers import memory_room
from agent.workers.child import JobError
from agent.workers.memory_room import Room, needed_bytes, require
from fitment.core.deployment import DeploymentState
from tests.scenarios.agent_world import assignment, signed

MIB = 1024 * 1024
MEMINFO = "MemTotal:        1024000 kB\nMemFree:  1 kB\nMemAvailable:     512000 kB\n"


def tree(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, Room()),
        ({"proc__meminfo": MEMINFO}, Room(total=1000 * MIB, free=500 * MIB)),
        ({"proc__meminfo": MEMINFO, "proc__self__cgroup": "0::/a/b\n",
          "sys__fs__cgroup__a__b__memory.max": "max\n",
          "sys__fs__cgroup__a__b__memory.current": "1\n",
          "sys__fs__cgroup__a__memory.max": f"{100 * MIB}\n",
          "sys__fs__cgroup__a__memory.current": f"{90 * MIB}\n",
          "sys__fs__cgroup__a__memory.stat": f"anon 1\ninactive_file {20 * MIB}\n"},
         Room(total=100 * MIB, free=30 * MIB)),
        ({"proc__meminfo": MEMINFO, "proc__self__cgroup": "4:memory:/m\n1:cpu:/\n0::/\n",
          "sys__fs__cgroup__memory__m__memory.limit_in_bytes": f"{64 * MIB}\n",
          "sys__fs__cgroup__memory__m__memory.usage_in_bytes": f"{70 * MIB}\n"},
         Room(total=64 * MIB, free=0)),
    ],
)  # fmt: skip
def test_the_smaller_of_machine_and_cgroups(
    tmp_path: Path, files: dict[str, str], room: Room
) -> None:
    assert memory_room.read(tree(tmp_path, **files)) == room


def test_this_machine_tells() -> None:
    room = memory_room.read()
    assert room.total is not None
    assert room.free is not None
    assert 0 <= room.free <= room.total


@pytest.mark.parametrize(
    ("room", "limit", "code", "event"),
    [
        (Room(), None, "", None),
        (Room(total=1000 * MIB, free=300 * MIB), None, "", None),
        (Room(total=1000 * MIB, free=100 * MIB), None, "memory_short", Event.BUSY),
        (Room(total=200 * MIB, free=100 * MIB), None, "memory_never", Event.REJECTED),
        (Room(total=1000 * MIB, free=900 * MIB), 128 * MIB, "memory_never", Event.REJECTED),
    ],
)
def test_a_model_that_does_not_fit_waits_or_is_refused_with_numbers(
    room: Room, limit: int | None, code: str, event: Event | None
) -> None:
    needs = needed_bytes(100 * MIB)
    if not code:
        require(needs, room, limit_bytes=limit)
        return
    with pytest.raises(JobError, match="about 248 MiB") as caught:
        require(needs, room, limit_bytes=limit)
    assert caught.value.code == code
    order = assignment("d-1")
    record = DeploymentRecord(
        order=signed(order), assignment=order, state=DeploymentState.STAGING
    )  # fmt: skip
    assert classify(record, caught.value.failure(), timed_out=False) is event
