"""Runs the demo from its first step to its report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from controller.demo import report
from controller.demo.processes import ENDS_S, crew
from controller.demo.report import StepTime
from controller.demo.stage import MARK, Folders, Stage, environment
from controller.demo.steps import STEPS, Step
from controller.errors import FitmentError, UserError

LIMIT_S = 600.0
"""The demo is broken when it takes longer; two quiet cores need less than half."""


Talk = AbstractContextManager[Callable[[str], None]]


class Show(Protocol):
    """Where the demo says what it does."""

    def step(
        self, number: int, of: int, title: str
    ) -> AbstractContextManager[Callable[[str], None]]:
        """A step begins; what it says goes to the returned function."""
        ...

    def done(self, step: StepTime) -> None:
        """A step came to its end."""
        ...


def run(out: Path, link: str, show: Show, steps: Sequence[Step] = STEPS) -> dict[str, Any]:
    """Run the steps; the report is written whatever happens.

    Raises:
        UserError: ``out`` holds other things.
    """
    folders = prepare(out)
    times: list[StepTime] = []
    failed = ""
    with crew(folders.logs, environment(folders, link)) as hired:
        stage = Stage(
            folders=folders, crew=hired, say=lambda _text: None,
            deadline_s=time.monotonic() + LIMIT_S,
        )  # fmt: skip
        for number, step in enumerate(steps, 1):
            with_bar = partial(show.step, number, len(steps), step.title)
            failed = _take(stage, step, times, with_bar)
            show.done(times[-1])
            if failed:
                break
        found = report.make(stage, times, failed)
        if stage.client is not None:
            stage.client.close()
    (out / "report.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return found


def _take(stage: Stage, step: Step, times: list[StepTime], shown: Callable[[], Talk]) -> str:
    """Take one step and add its time; gives why it failed, or nothing."""
    began, failed = time.monotonic(), ""
    try:
        with shown() as say:
            stage.say = say
            result = step.run(stage)
    except FitmentError as error:
        result = stage.crew.ended(ENDS_S) or str(error)
        failed = f"{step.title}: {result}"
    seconds = round(time.monotonic() - began, 2)
    times.append(StepTime(name=step.name, title=step.title, seconds=seconds, result=result))
    return failed


def prepare(out: Path) -> Folders:
    """Empty folders for the demo, where an earlier demo's may have been.

    Raises:
        UserError: the folder holds something else, which is not ours to remove.
    """
    folders = Folders(out=out.absolute())
    mark = out / MARK
    if out.exists() and not mark.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; name an empty or a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for name in ("controller", "devices", "samples", "models", "shifted", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "report.json").unlink(missing_ok=True)
    folders.logs.mkdir()
    return folders
