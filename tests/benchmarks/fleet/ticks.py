"""Processor time of a reconcile tick as the fleet grows and what changes does not.

Three ticks: nothing runs; a rollout runs and nothing was said since the last tick; a rollout runs,
half of the fleet is in it, ten devices have reported an end, and ten more begin.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.domain import fleet
from controller.reconcile.rolling import RolloutPlan
from controller.simulator import seed
from controller.simulator.traits import SCENARIOS
from controller.simulator.world import World, trusted
from controller.store import open_store

CHANGED = 10
QUIET = replace(SCENARIOS["good-release"], crashes=0.0, flaky=0.0, silent=0.0, skewed=0.0)
MIX = {"raspberry-pi-5": 0.5, "rk3588": 0.5}  # without batteries, so that nobody leaves


def measure(
    sizes: tuple[int, ...], say: Callable[[str], None], store: str = "sqlite"
) -> dict[str, Any]:
    """Milliseconds of processor time, medians."""
    found: dict[str, Any] = {}
    with trusted() as (trust, folder), tempfile.TemporaryDirectory() as data:
        for size in sizes:
            url = f"sqlite:///{Path(data) / f'{size}.db'}" if store == "sqlite" else "memory://"
            wanted = seed.Fleet(devices=size, scenario=QUIET, mix=MIX)
            kept = open_store(url, "default")
            with kept.transaction():  # 10,000 devices, one sync of the disk
                world = World(wanted, trust, folder, store=kept)
            found[str(size)] = _of(world)
            world.controller.close()
            say(f"{store}, {size} devices: {found[str(size)]}")
    return found


def _of(world: World) -> dict[str, float]:
    for _ in range(3):
        world.turn()
    idle = _median([_tick(world) for _ in range(9)])
    # Two cohorts: half of each is under way, and whoever ends makes room for one more.
    gate = fleet.Gate(max_failure_share=0.02, open_most=len(world.devices) // 4)
    world.controller.create_rollout(world.release.id, RolloutPlan(waves=(1.0,), gate=gate))
    world.controller.tick()
    world.controller.tick()
    quiet = _median([_tick(world) for _ in range(9)])
    busy = []
    for _ in range(7):
        _let_end(world, CHANGED)
        busy.append(_tick(world))
    return {
        "idle_ms": idle,
        "running_ms": quiet,
        f"{CHANGED}_ended_{CHANGED}_began_ms": _median(busy),
    }


def _let_end(world: World, count: int) -> None:
    """Let devices do what they do until so many more have ended."""
    deployments = world.store.deployments
    open_ones = {d.id for d in deployments.find(outcome=None)}
    written: set[str] = set()
    deployments.watch(written.add)
    left = len(open_ones) - count
    while len(open_ones) > left and world.pass_one():
        found = [deployments.get(key) for key in written]
        open_ones -= {d.id for d in found if d is not None and d.outcome is not None}
        written.clear()


def _tick(world: World) -> float:
    began = time.process_time()
    world.controller.tick()
    return (time.process_time() - began) * 1000


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)
