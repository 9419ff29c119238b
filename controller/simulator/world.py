"""Virtual time: the controller's own loop on the store's twin, and devices that are modelled."""

from __future__ import annotations

import enum
import heapq
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from controller.artifacts.memory import MemoryBlobs
from controller.domain import fleet
from controller.domain.fleet import RolloutState
from controller.reconcile.context import Context, ReconcileSettings
from controller.reconcile.controller import Controller
from controller.reconcile.rolling import RolloutPlan
from controller.simulator import seed
from controller.simulator.device import NEVER, Answer, SimDevice
from controller.simulator.fits import ModelledFits
from controller.simulator.result import Result, result_of
from controller.store.base import Store
from controller.store.memory import MemoryStore
from controller.trust import Trust
from fitment.core.link import Downlink, Uplink
from profiles import all_profiles

BEGIN_S = 1_700_000_000.0
TICK_S = 5.0
"""Of virtual time. Nothing of the loop's is faster than devices are."""
OVER = frozenset({RolloutState.COMPLETED, RolloutState.HALTED, RolloutState.CANCELLED})
PLAN = RolloutPlan(
    waves=(0.05, 0.25, 1.0),
    soak_s=30.0,
    deadline_s=900.0,
    gate=fleet.Gate(max_failure_share=0.02, agreement_min=0.95),
)
"""What is simulated where nothing else is asked for."""


class What(enum.Enum):
    """What happens to a device at a moment."""

    WAKE = "wake"  # it has something to do
    LINK = "link"  # its link comes or goes
    ARRIVAL = "arrival"  # a late message of its arrives
    UPGRADE = "upgrade"  # its driver changes


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    at: float
    number: int  # of two at one moment the earlier planned; nothing after it is compared
    device: str
    what: What
    uplink: Uplink | None = None


class World:
    """One rollout over one fleet."""

    def __init__(
        self, wanted: seed.Fleet, trust: Trust, folder: Path, *, store: Store | None = None
    ) -> None:
        self.now = BEGIN_S
        self.wanted = wanted
        self.store: Store = store or MemoryStore("default")
        self.devices: dict[str, SimDevice] = {d.name: d for d in self._members()}
        self.release = self._fill()
        self._chance = random.Random(wanted.seed + 1)
        self._numbers = itertools.count()
        self._heap: list[_Due] = []
        self._online: set[str] = set()
        self.ticks: list[float] = []  # real seconds of each
        self._context = Context(
            store=self.store, trust=trust, blobs=MemoryBlobs(), profiles=all_profiles(),
            fits=self._fits(folder), publish=self._publish,
            clock=lambda: self.now, started_at=self.now, settings=self._settings(),
        )  # fmt: skip
        self.controller = Controller(self._context)
        for device in self.devices.values():
            self._flip(device)
            if device.traits.upgrades_at is not None:
                self._push(device, BEGIN_S + device.traits.upgrades_at, What.UPGRADE)

    # What another world does in another way

    def _members(self) -> list[SimDevice]:
        return seed.devices(self.wanted)

    def _fill(self) -> fleet.Release:
        return seed.fill(self.store, list(self.devices.values()), self.now)

    def _fits(self, folder: Path) -> ModelledFits:
        return ModelledFits(folder, seed.MODEL.id)

    def _settings(self) -> ReconcileSettings:
        optimise = self.wanted.scenario.upgrades > 0
        return ReconcileSettings(optimise=optimise, auto_approve=True, confirm=False)

    def run(self, plan: RolloutPlan = PLAN, *, most_s: float = 86_400.0) -> Result:
        """Until the rollout is over and nothing of it is open, or the time is."""
        began = time.perf_counter()
        made = self.controller.create_rollout(self.release.id, plan)
        at_end: Result | None = None
        until = self.now + most_s
        while self.now < until:
            self.turn()
            made = self.store.rollouts.get(made.id) or made
            if made.state in OVER and at_end is None:
                at_end = result_of(self._context, made, self.wanted, self.now - made.created_at)
            if at_end is not None and not self.store.deployments.find(
                rollout=made.id, outcome=None
            ):
                break
        found = at_end or result_of(self._context, made, self.wanted, self.now - made.created_at)
        return replace(
            found, wall_seconds=time.perf_counter() - began,
            still_open=len(self.store.deployments.find(rollout=made.id, outcome=None)),
            triggers=len(self.store.triggers.find()),
        )  # fmt: skip

    def restart(self) -> None:
        """Another controller on the same store; every device connects again."""
        self.controller = Controller(self._context)
        for name in sorted(self._online):
            self.controller.on_link_up(name)
            self.controller.on_uplink(name, self.devices[name].reported())

    def turn(self) -> None:
        """One tick, and what happens until the next."""
        began = time.perf_counter()
        self.controller.tick()
        self.ticks.append(time.perf_counter() - began)
        until = self.now + TICK_S
        while self._heap and self._heap[0].at <= until:
            self.pass_one()
        self.now = until

    def pass_one(self) -> bool:
        """Let the next thing happen; says whether there was one."""
        if not self._heap:
            return False
        due = heapq.heappop(self._heap)
        self.now = max(self.now, due.at)
        self._happens(due)
        return True

    def _happens(self, due: _Due) -> None:
        device = self.devices[due.device]
        match due.what:
            case What.WAKE if due.at >= device.due:
                self._wake(device)
            case What.LINK:
                self._flip(device)
            case What.ARRIVAL if due.uplink is not None:
                self.controller.on_uplink(device.name, due.uplink)
            case What.UPGRADE:
                device.upgrade()
                if device.name in self._online:
                    self._send(device, device.reported())

    def _wake(self, device: SimDevice) -> None:
        for said in device.wake(self.now):
            if device.name not in self._online:
                continue  # what it would say now it says when it is back
            if isinstance(said, Answer):
                self.controller.on_measurement(
                    device.name, said.study, said.measurement, said.kernels
                )
            else:
                self._send(device, said)
        self._plan(device)

    def _send(self, device: SimDevice, uplink: Uplink) -> None:
        scenario = self.wanted.scenario
        if self._chance.random() < scenario.repeats:
            self._later(device, uplink, self._chance.uniform(0.1, 5.0))
        if self._chance.random() < scenario.late:
            self._later(device, uplink, self._chance.uniform(0.1, 60.0))
        else:
            self.controller.on_uplink(device.name, uplink)

    def _later(self, device: SimDevice, uplink: Uplink, after_s: float) -> None:
        self._push(device, self.now + after_s, What.ARRIVAL, uplink)

    def _flip(self, device: SimDevice) -> None:
        """The link comes or goes; and a driver that is due is there when it comes."""
        if device.name in self._online:
            self._online.discard(device.name)
            self.controller.on_link_down(device.name)
        else:
            self._online.add(device.name)
            self.controller.on_link_up(device.name)
            self.controller.on_uplink(device.name, device.reported())
        self._plan_link(device)

    def _plan_link(self, device: SimDevice) -> None:
        scenario, board = self.wanted.scenario, device.machine.board
        online = device.name in self._online
        mean_s = NEVER
        if device.traits.flaky:
            mean_s = scenario.up_s if online else scenario.down_s
        elif board.battery_s is not None:  # an empty battery: an hour at the charger
            mean_s = board.battery_s if online else 3600.0
        if mean_s < NEVER:
            self._push(device, self.now + self._chance.expovariate(1 / mean_s), What.LINK)

    def _plan(self, device: SimDevice) -> None:
        if device.due < NEVER:
            self._push(device, device.due, What.WAKE)

    def _push(self, device: SimDevice, at: float, what: What, uplink: Uplink | None = None) -> None:
        number = next(self._numbers)
        heapq.heappush(
            self._heap, _Due(at=at, number=number, device=device.name, what=what, uplink=uplink)
        )

    def _publish(self, device: str, downlink: Downlink) -> None:
        found = self.devices.get(device)
        if found is not None and device in self._online:
            found.receive(downlink, self.now)
            self._plan(found)


@contextmanager
def trusted() -> Iterator[tuple[Trust, Path]]:
    """Real keys in a folder that is gone afterwards; several worlds may share them."""
    with tempfile.TemporaryDirectory(prefix="fitment-simulate-") as name:
        folder = Path(name)
        yield Trust.create(folder / "trust", folder / "offline"), folder


def simulate(wanted: seed.Fleet, plan: RolloutPlan = PLAN) -> Result:
    """One rollout in virtual time."""
    with trusted() as (trust, folder):
        return World(wanted, trust, folder).run(plan)
