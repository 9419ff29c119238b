"""Where the power goes: steps of one run, which of them are cut and how, and the fuse itself."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import sys
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent import durable, journal

from .power_device import die
from .power_scenarios import Scenario

T = TypeVar("T")

BEFORE, AFTER, TORN, ALONE = "before", "after", "torn", "worker-alone"
COUNTS = ("agent/ledger.py", "agent/workers/purse.py")
HANDED_OVER = ("agent/runner.py", "agent/workers/child.py")
COUNTED = ("update",)
"""Scenarios in which the power goes around the ledger: it knows nothing of what is deployed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the undisturbed run."""

    number: int
    name: str
    place: str
    worker: bool
    caller: str  # file and function that asked the seam for it
    asker: str  # the same; for a commit, who asked the journal for it


Point = tuple[Step, str]


class Fuse:
    """Counts steps over all processes of one device, and blows at one of them."""

    def __init__(self, step: Step | None = None, how: str = "", log: Path | None = None) -> None:
        self._cut, self._how, self._log = step, how, log
        self._shared = mmap.mmap(-1, 8)  # the same memory in every fork
        self._supervisor = os.getpid()

    def begin(self) -> None:
        """Called in the supervisor's process."""
        self._supervisor = os.getpid()

    def step(self, name: str, path: Path, act: Callable[[], T]) -> T:
        """Takes the place of `agent.durable.step`."""
        number = int.from_bytes(self._shared[:8], "little") + 1
        self._shared[:8] = number.to_bytes(8, "little")
        if self._log is not None:
            row = [number, name, str(path), os.getpid() != self._supervisor, *_callers()]
            with self._log.open("a") as log:
                log.write(json.dumps(row) + "\n")
        if self._cut is None or number != self._cut.number:
            return act()
        assert name == self._cut.name, f"this run is another one: {name} {path}"
        if self._how == BEFORE:
            self._blow()
        result = act()
        if self._how == TORN:
            _tear(path)
        self._blow()
        return result

    def _blow(self) -> None:
        if self._how == ALONE:
            die()
        die(*{self._supervisor} - {os.getpid()})


class Camera(Fuse):
    """Kills nobody: it keeps what the disk and the controller know at each of ``points``.

    What a process had not yet given to the kernel is missing there as it is after SIGKILL: the
    copies are made by reading the files while every process of the device waits for this step.
    """

    def __init__(self, points: Collection[Point], case: Path, folder: Path) -> None:
        super().__init__()
        self._wanted = {(step.number, how) for step, how in points}
        self._case, self._folder = case, folder

    def step(self, name: str, path: Path, act: Callable[[], T]) -> T:
        """Takes the place of `agent.durable.step`."""
        number = int.from_bytes(self._shared[:8], "little") + 1
        self._shared[:8] = number.to_bytes(8, "little")
        self._keep(number, BEFORE)
        result = act()
        self._keep(number, AFTER)
        torn = self._keep(number, TORN)
        if torn is not None:
            _tear(torn / path.absolute().relative_to(self._case))
        return result

    def _keep(self, number: int, how: str) -> Path | None:
        if (number, how) not in self._wanted:
            return None
        into = self._folder / f"{number}-{how}"
        shutil.copytree(self._case / "device", into / "device", symlinks=True)
        if (self._case / "heard").exists():
            shutil.copy(self._case / "heard", into / "heard")
        return into


def _tear(path: Path) -> None:
    """Half of the content reached the disk."""
    os.truncate(path, path.stat().st_size // 2)


def _callers() -> tuple[str, str]:
    """The first function below the seam's own, and the first below the journal's as well."""
    frame = _below(sys._getframe(2), durable.__file__)
    asker = _below(frame, durable.__file__, journal.__file__, contextlib.__file__)
    return _named(frame), _named(asker)


def _below(frame: types.FrameType, *files: str) -> types.FrameType:
    while frame.f_back is not None and frame.f_code.co_filename in files:
        frame = frame.f_back
    return frame


def _named(frame: types.FrameType) -> str:
    """``agent/slots.py:switch``."""
    path = Path(frame.f_code.co_filename)
    root = Path(__file__).parents[2]
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return f"{name}:{frame.f_code.co_name}"


def points(steps: list[Step], *, twice: bool) -> Iterator[Point]:
    """Every step with every way for it to be cut.

    Nothing changes on the disk between two steps, so right after one and right before the next
    are one state of it; they differ where the controller is told something in between, which is
    after a commit. ``twice`` runs both all the same.
    """
    for step in steps:
        yield step, BEFORE
        if twice or step.name == "commit" or step is steps[-1]:
            yield step, AFTER
        if step.name in ("sync", "scratch"):
            yield step, TORN
        if step.worker:
            yield step, ALONE


def window(scenario: Scenario, steps: list[Step]) -> list[Step]:
    """The steps that are this scenario's own."""
    names = [f"{step.name} {step.place}" for step in steps]

    def index(part: str, default: int) -> int:
        return next(i for i, name in enumerate(names) if part in name) if part else default

    own = steps[index(scenario.since, 0) : index(scenario.until, len(steps))]
    return [step for step in own if scenario.name in COUNTED or not step.caller.startswith(COUNTS)]


def once_a_state(every: Sequence[Point], steps: list[Step]) -> list[Point]:
    """Between two commits each place in the code once: loops over files and chunks meet it often.

    The state that a new process finds in the journal differs from commit to commit, so commits
    are all there, and what they stand between as well. Jobs and answers of workers are handed
    over in the same way in every state: those places are there once a scenario, but for the
    worker's own death.
    """
    state, found = 0, dict[tuple[object, ...], Point]()
    states = {}
    for step in steps:
        states[step.number] = state
        state += step.name == "commit"
    for step, how in every:
        same = step.caller.startswith(HANDED_OVER) and how != ALONE
        state = -1 if same else states[step.number]
        found.setdefault((state, step.caller, step.name, how), (step, how))
    return list(found.values())
