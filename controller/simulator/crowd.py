"""All agents of a wire simulation on one loop: switched on one after the other, and ended."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from controller.errors import UserError
from controller.simulator.agents import Agent, Counts, Crowd, Pace
from controller.simulator.device import SimDevice
from controller.simulator.sockets import Loop, Tls
from controller.simulator.traits import Scenario

SPARE_SOCKETS = 200
LOOK_S, SHOW_S, SWEEP_S = 0.1, 1.0, 5.0


class Fleet:
    """Modelled devices, each with a connection of its own."""

    def __init__(
        self, members: Sequence[SimDevice], *, scenario: Scenario, chance: int, address: str,
        papers: Path, ca: Path, pace: float,
    ) -> None:  # fmt: skip
        make_room(len(members))
        host, port = address.rsplit(":", 1)
        self.counts = Counts()
        self._loop = Loop()
        now = self._loop.now()
        crowd = Crowd(
            loop=self._loop, tls=Tls(ca, host.strip("[]")), address=(host.strip("[]"), int(port)),
            papers=papers, scenario=scenario, chance=random.Random(chance), counts=self.counts,
            pace=Pace(factor=pace, began=now, wall_s=time.time()),
        )  # fmt: skip
        self._agents = [Agent(device, crowd) for device in members]
        self._swept_at = now

    def __len__(self) -> int:
        return len(self._agents)

    def switch_on(self, per_s: float) -> None:
        """Have devices connect for the first time, so many in a second."""
        now = self._loop.now()
        for place, agent in enumerate(self._agents):
            self._loop.at(now + place / per_s, agent.switch_on)

    def all_told(self) -> bool:
        """Whether the controller has told every device that is there what is desired of it."""
        nearly = self.counts.asked >= 0.5 * len(self._agents)  # else it need not be looked at
        return nearly and all(agent.is_settled for agent in self._agents)

    def run(self, show: Callable[[], None], done: Callable[[], bool], most_s: float) -> None:
        """Let the fleet live until something holds, or for so long."""
        until = self._loop.now() + most_s
        shown = 0.0
        while (now := self._loop.now()) < until and not done():
            if now - shown >= SHOW_S:
                show()
                shown = now
            self._loop.run(min(until, now + LOOK_S))
            self._sweep()

    def _sweep(self) -> None:
        now = self._loop.now()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            for agent in self._agents:
                agent.ping(now)

    def close(self) -> None:
        """Say goodbye and close every connection."""
        for agent in self._agents:
            agent.switch_off(goodbye=True)
        self._loop.close()


def make_room(sockets: int) -> None:
    """Raise the limit on open files as far as is allowed.

    Raises:
        UserError: it is not enough for so many sockets.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sockets + SPARE_SOCKETS
    if soft < needed <= hard or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    elif needed > hard:
        raise UserError(
            f"{sockets} devices need {needed} open files, this process may have {hard}:"
            " raise the limit (ulimit -Hn), or simulate fewer"
        )
