"""``python -m tests.scenarios.power_cut FOLDER``: lets the power go around every step of the disk.

Each scenario runs once undisturbed, and every step that passes `agent.durable.step` is written
down, of the supervisor and of its workers. For each of them the power goes right before the step,
right after it, or after half of the content was written; or the worker alone is killed. Then a new
process goes on with what is on the disk. Where it is the first cut at its place in the code, or
the worker's alone, all processes of the device are killed by SIGKILL in a run of its own; the
others begin with what the disk held at that moment of one run (`power_fuse.Camera`), in which the
code before it need not run again. ``report.json`` in FOLDER says how each ended.

After FOLDER may stand a scenario (``all`` of them), and which of its cuts: ``every`` that differs,
without passing over the second of a loop; ``killed``, the same with SIGKILL each; ``twice``, before
and after each step, killed; or ``NUMBER-HOW``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agent import durable
from agent.domain.allowance import Allowance
from agent.domain.ladder import Readings
from agent.journal import read_journal
from agent.ledger import stored
from agent.slots import Slots
from agent.workers.serving import follow

from .agent_world import SLOT
from .power_device import CHUNK_BYTES, Centre, Device, complete, stand_in, warm
from .power_fuse import (
    ALONE,
    BEFORE,
    Camera,
    Fuse,
    Point,
    Step,
    once_a_state,
    points,
    window,
)
from .power_scenarios import Scenario, scenarios

ALL, EVERY, KILLED, TWICE = "all", "every", "killed", "twice"
RUNNERS = 2
PID = re.compile(r"(?<=jobs/)(\.?)\d+-")
HOT = Readings(temperature_c=84.0, throttle_c=85.0)
SETTLED_STEPS = 400
"""Looks of the supervisor within which a deployment is forgotten and what stays serves."""


@dataclass(kw_only=True)
class Verdict:
    """How the runs of one scenario ended."""

    steps: list[str] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    runs: int = 0
    killed: int = 0  # of these, by SIGKILL
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def live(
    scenario: Scenario, case: Path, centre: Centre, fuse: Fuse | None, *, generation: int
) -> None:
    """A process of the device, and a controller that remembers what it has heard."""
    if fuse is not None:
        durable.step = fuse.step
    stand_in(centre, wrong_on_trial=scenario.wrong_on_trial)
    heard = case / "heard"
    ended = any(
        name == scenario.order.deployment and outcome
        for line in read_lines(heard)
        for name, _, outcome in line["deployments"]
    )
    device = Device(case / "device", centre, heard, generation=generation + ended)
    device.readings = HOT if scenario.hot else device.readings
    if not ended:
        device.wish(scenario.order)
        device.finish(scenario.order.deployment)
    device.wish()
    for _ in range(SETTLED_STEPS):
        device.steps(1)
        serves = all(slot.serving for slot in device.reported.slots if slot.variant)
        stands = device.slots.rung(SLOT) == len(device.slots.names()) - 1 == scenario.rung
        busy = device.reported.deployments or device.journal.submissions()
        if serves and stands and not busy:
            break
    device.supervisor.close()


def fork(act: Callable[[], None], errors: Path) -> int:
    """Do it in a process of its own; its exit code, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - the outermost frame of a process
            errors.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def try_point(
    scenario: Scenario, template: Path, case: Path, centre: Centre, step: Step, how: str
) -> None:
    """One run with one cut; or, where its disk was kept already, what comes after the cut.

    Raises:
        AssertionError: something does not hold.
    """
    generation = 2 if scenario.before else 0
    if not (case / "device").exists():
        shutil.copytree(template, case / "device", symlinks=True)
        cut = Fuse(step, how)

        def first() -> None:
            cut.begin()
            live(scenario, case, centre, cut, generation=generation)

        code = fork(first, case / "errors")
        assert code == (0 if how == ALONE else -signal.SIGKILL), said(case, code)
    look_at_the_disk(scenario, Slots(case / "device" / "slots"))
    if how != ALONE:  # there the supervisor went on
        again = partial(live, scenario, case, centre, None, generation=generation)
        code = fork(again, case / "errors")
        assert code == 0, said(case, code)
    look(scenario, case)


def look_at_the_disk(scenario: Scenario, slots: Slots) -> None:
    """What serves while nobody runs: the old or the new."""
    found = complete(slots.link(SLOT)) if slots.active(SLOT) else ""
    assert found in (scenario.before, scenario.serves, scenario.order.bundle.variant), found
    assert found or not scenario.before, "nothing serves"
    serving = follow.resolve(str(slots.link(SLOT))).folder if found else ""
    assert not found or complete(Path(serving)), "what a worker would load is damaged"


def look(scenario: Scenario, case: Path) -> None:
    """What must hold in the end."""
    device, order = case / "device", scenario.order
    slots = Slots(device / "slots")
    journal = read_journal(device / "journal.db")
    try:
        facts = journal.slot(SLOT)
        assert journal.active() is None
        assert journal.ended() == ()
        (verdict,) = journal.rows("PRAGMA integrity_check")
        assert verdict == ("ok",)
        failures = sorted(journal.quarantine().values())
        good = scenario.outcome == "committed"
        assert failures == ([] if good else [1]), f"quarantine counts {failures}"
        record = next(r for r in journal.history() if r.id == order.deployment)
        assert record.resumes <= 1 + bool(scenario.begins)
    finally:
        journal.close()
    counted = stored(device, Allowance(), Device.wall_unix, 0.0).transferred
    assert counted >= record.fetched_bytes - CHUNK_BYTES, f"{counted} bytes are in the ledger"
    if scenario.serves:
        assert complete(slots.link(SLOT)) == scenario.serves
        assert slots.active(SLOT) == facts.last_good
    else:
        assert not slots.link(SLOT).is_symlink()
    assert facts.variant == scenario.serves
    assert (slots.rung(SLOT), len(slots.names()) - 1) == (scenario.rung, scenario.rung)
    if scenario.rung:
        lesser = scenario.order.ladder[scenario.rung - 1].bundle.variant
        assert complete(Path(follow.resolve(str(slots.link(SLOT))).folder)) == lesser
    assert bool(facts.golden_ok) == bool(scenario.serves)
    assert slots.restore(SLOT).variant == facts.variant, "facts.json says something else"
    assert slots.restore(SLOT).counter == facts.counter
    look_at_reports(scenario, read_lines(case / "heard"))
    left = [p.relative_to(device).as_posix() for p in device.rglob("*") if unfinished(p)]
    assert left == [], f"left behind: {left}"
    if not good:
        spare = "b" if facts.last_good == "a" else "a"
        assert not slots.folder(SLOT, spare).exists()


def look_at_reports(scenario: Scenario, lines: list[dict[str, Any]]) -> None:
    """Ended once, as it should; forgotten once; counters only grow."""
    highest, outcomes, gone = 0, [], False
    for line in lines:
        rows = [row for row in line["deployments"] if row[0] == scenario.order.deployment]
        assert len(rows) <= 1, line
        outcome = rows[0][2] if rows else ""
        assert not (gone and rows), f"it came back: {line}"
        assert outcome or not (outcomes and rows), f"it was over already: {line}"
        gone = gone or bool(outcomes and not rows)
        outcomes += [outcome] if outcome else []
        counter = line["counters"].get(SLOT, 0)
        assert counter >= highest, f"the counter fell from {highest}: {line}"
        highest = counter
        assert not line["notes"], line["notes"]
    assert gone
    assert set(outcomes) == {scenario.outcome}, lines[-2:]
    serving = lines[-1]["serving"].get(SLOT, "")
    assert serving == scenario.serves, lines[-1]


def unfinished(path: Path) -> bool:
    """Whether a file belongs to something that is over."""
    work = {"archives", "jobs", "studies"} & set(path.parts)
    return path.is_file() and bool(path.name.endswith((".new", ".part")) or work)


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def said(case: Path, code: int) -> str:
    errors = case / "errors"
    return f"ended with {code}: {errors.read_text() if errors.exists() else ''}"


def record(scenario: Scenario, template: Path, case: Path, centre: Centre) -> list[Step]:
    """The undisturbed run, which must hold too."""
    shutil.copytree(template, case / "device", symlinks=True)
    log, generation = case / "steps", 2 if scenario.before else 0

    def act() -> None:
        live(scenario, case, centre, Fuse(log=log), generation=generation)

    code = fork(act, case / "errors")
    assert code == 0, said(case, code)
    look(scenario, case)
    return [
        Step(number=number, name=name, worker=worker, caller=caller, asker=asker,
             place=PID.sub(r"\1PID-", os.path.relpath(path, case / "device")))
        for number, name, path, worker, caller, asker in read_lines(log)
    ]  # fmt: skip


def film(
    scenario: Scenario, template: Path, folder: Path, centre: Centre, wanted: list[Point]
) -> None:
    """The undisturbed run once more; what is on the disk at ``wanted`` is kept in ``folder``."""
    case = folder / "film"
    shutil.copytree(template, case / "device", symlinks=True)
    camera, generation = Camera(wanted, case, folder), 2 if scenario.before else 0
    code = fork(
        partial(live, scenario, case, centre, camera, generation=generation), case / "errors"
    )
    assert code == 0, said(case, code)


def share(
    scenario: Scenario, template: Path, folder: Path, centre: Centre,
    work: list[Point], answer: Path,
) -> None:  # fmt: skip
    """Some of the points, one after the other."""
    failures = []
    for step, how in work:
        case = folder / f"{step.number}-{how}"
        case.mkdir(parents=True, exist_ok=True)
        label = f"{scenario.name} {step.number} {how} {step.name} {step.place}"
        try:
            try_point(scenario, template, case, centre, step, how)
        except (AssertionError, OSError, ValueError, StopIteration, sqlite3.Error) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{label}: {error} ({frame.line})")
        else:
            shutil.rmtree(case)
    answer.write_text(json.dumps(failures))


def chosen(scenario: Scenario, steps: list[Step], only: str) -> list[Point]:
    """The points that are asked for."""
    if only == TWICE:
        return list(points(steps, twice=True))
    every = list(points(window(scenario, steps), twice=False))
    if not only:
        return once_a_state(every, steps)
    return [(s, how) for s, how in every if only in (EVERY, KILLED, f"{s.number}-{how}")]


def explore(
    scenario: Scenario, template: Path, folder: Path, centre: Centre, only: str,
    met: set[tuple[str, str, str]],
) -> Verdict:  # fmt: skip
    """All points of one scenario. ``met``: places in the code at which somebody was killed."""
    started = time.monotonic()
    folder.mkdir()
    (folder / "record").mkdir()
    steps = record(scenario, template, folder / "record", centre)
    work, filmed = chosen(scenario, steps, only), []
    for step, how in work:
        place = (step.asker, step.name, how)
        if how != ALONE and place in met and only in ("", EVERY):
            filmed.append((step, how))
        met.add(place)
    if filmed:
        film(scenario, template, folder, centre, filmed)
    pids = []
    for index in range(RUNNERS):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                share(scenario, template, folder, centre, work[index::RUNNERS],
                      folder / f"answer-{index}")  # fmt: skip
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    failures = []
    for index in range(RUNNERS):
        answer = folder / f"answer-{index}"
        lost = [f"{scenario.name}: a runner died"]
        failures += json.loads(answer.read_text()) if answer.exists() else lost
    return Verdict(
        steps=[f"{'worker' if s.worker else 'supervisor'} {s.name} {s.place}" for s in steps],
        callers=sorted({c for s in steps for c in (s.caller, s.asker)}),
        runs=len(work), killed=len(work) - len(filmed),
        seconds=time.monotonic() - started, failures=failures,
    )  # fmt: skip


def cut_before(
    scenario: Scenario, template: Path, folder: Path, centre: Centre, earlier: list[Step]
) -> Path:
    """A device whose power went while it was at this very deployment."""
    folder.mkdir()
    shutil.copytree(template, folder / "device", symlinks=True)
    fuse = Fuse(
        next(s for s in earlier if re.fullmatch(scenario.begins, f"{s.name} {s.place}")), BEFORE
    )

    def act() -> None:
        fuse.begin()
        live(scenario, folder, centre, fuse, generation=2)

    assert fork(act, folder / "errors") == -signal.SIGKILL, said(folder, 0)
    return folder / "device"


def main(folder: Path, only: str = "", point: str = "") -> None:
    """All scenarios, or one, or one point of one, or all points of it (``twice``)."""
    warm()
    centre = Centre(folder)
    made = scenarios(centre)
    bare, installed, updated = folder / "bare", folder / "installed", folder / "updated"
    centre.enrol(bare)
    installed.mkdir()
    record(made[0], bare, installed, centre)
    updated.mkdir()
    earlier = record(made[1], installed / "device", updated, centre)
    report, met = {}, set[tuple[str, str, str]]()
    for scenario in made:
        if only in ("", ALL, scenario.name):
            template = installed / "device" if scenario.before else bare
            if scenario.on:
                place = folder / f"{scenario.name}-on"
                place.mkdir()
                record(next(s for s in made if s.name == scenario.on), template, place, centre)
                template = place / "device"
            if scenario.begins:
                place = folder / f"{scenario.name}-begins"
                template = cut_before(scenario, template, place, centre, earlier)
            found = explore(scenario, template, folder / scenario.name, centre, point, met)
            report[scenario.name] = vars(found)
    (folder / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
