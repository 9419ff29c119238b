"""Broker, controller, agent and its workers killed at every moment of the loop: exactly once,
and nothing lost.

A moment is a row of `MOMENTS`, who is killed when is a row of `KILLS`. A run walks the whole loop
(enrol, fit, roll out, change the device, fit again) and does its rows' kills on the way. On a busy
machine a short moment may go by unseen: then the kill comes late, rather than never.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.cli.fit import find
from controller.domain.fleet import JobStatus, RolloutState
from controller.gateway.broker import find_mosquitto
from fitment.core.deployment import DeploymentState as State
from fitment.core.deployment import Outcome
from tests.e2e.processes import wait_for
from tests.e2e.stack import Stack

FOUND = find_mosquitto()
pytestmark = [
    pytest.mark.e2e, pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason),
]  # fmt: skip
MODEL = "onnx_only"
DEVICE_ORDER = tuple(State)
FIT_ORDER = tuple(JobStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of the loop: what an operator does, and when it has come to its end."""

    act: Callable[[Stack], None]
    done: Callable[[Stack], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When to kill, seen from outside."""

    step: str
    seen: Callable[[Stack], Any]


@dataclass(frozen=True, slots=True)
class Kill:
    """Who is killed when, and when it is started again: at once, where nothing is said."""

    who: str
    moment: str
    back: Callable[[Stack], Any] = lambda _stack: True


def enrol(stack: Stack) -> None:
    stack.enroll()
    stack.start_agent()


def fit(stack: Stack) -> None:
    stack.client.register_model(str(find(MODEL).resolve()))
    stack.client.start_fits(MODEL)


def roll_out(stack: Stack) -> None:
    release = stack.client.create_release(MODEL)
    stack.client.create_rollout(release.id)


def fitted(stack: Stack) -> bool:
    job = stack.job()
    assert job.status is not JobStatus.FAILED, job.error
    return job.status is JobStatus.DONE


def rolled_out(stack: Stack) -> bool:
    return all(made.state is RolloutState.COMPLETED for made in stack.client.rollouts())


def answered(stack: Stack) -> bool:
    triggers = stack.client.triggers()
    return bool(triggers) and all(trigger.closed_at for trigger in triggers)


def committed(stack: Stack) -> bool:
    """On the device; the controller need not know."""
    return stack.counter_on_device() > 0


def fit_reached(status: JobStatus) -> Callable[[Stack], bool]:
    return lambda stack: FIT_ORDER.index(stack.job().status) >= FIT_ORDER.index(status)


def refit_reached(status: JobStatus) -> Callable[[Stack], bool]:
    reached = fit_reached(status)
    return lambda stack: bool(stack.job().trigger) and reached(stack)


def device_reached(state: State, *, deployment: int = 1) -> Callable[[Stack], bool]:
    """Its so-manieth deployment is there, or past it: idle again, once its end is known."""

    def reached(stack: Stack) -> bool:
        begun, now = stack.on_device()
        past = now is State.IDLE or DEVICE_ORDER.index(now) >= DEVICE_ORDER.index(state)
        return begun >= deployment and past

    return reached


STEPS: Mapping[str, Step] = {
    "enrol": Step(act=enrol, done=lambda stack: stack.device().profile),
    "fit": Step(act=fit, done=fitted),
    "roll out": Step(act=roll_out, done=rolled_out),
    "change": Step(act=Stack.change_device, done=answered),
}

MOMENTS: Mapping[str, Moment] = {
    # The agent has begun; its first report, and with it a profile, is a tenth of a second away.
    "profile not known": Moment(step="enrol", seen=lambda s: (s.edge / "journal.db").exists()),
    "probing": Moment(step="fit", seen=fit_reached(JobStatus.PROBING)),
    "fitting": Moment(step="fit", seen=lambda stack: stack.pids("fit-worker")),
    "confirming": Moment(step="fit", seen=fit_reached(JobStatus.CONFIRMING)),
    "unpacking": Moment(step="roll out", seen=device_reached(State.FETCHING)),
    "benchmarking": Moment(step="roll out", seen=device_reached(State.BENCHMARKING)),
    "switching": Moment(step="roll out", seen=device_reached(State.TRIAL)),
    "committed": Moment(step="roll out", seen=committed),
    "trigger open": Moment(step="change", seen=lambda stack: stack.client.triggers()),
    "refitting": Moment(step="change", seen=refit_reached(JobStatus.RUNNING)),
    "reconfirming": Moment(step="change", seen=refit_reached(JobStatus.CONFIRMING)),
    "switching again": Moment(step="change", seen=device_reached(State.TRIAL, deployment=2)),
}

# An agent waits longer before each further try to connect, and a new one begins anew: so what cuts
# its link comes a few times in a run.
KILLS: Mapping[str, tuple[Kill, ...]] = {
    "controller in fits": (
        Kill("controller", "profile not known"),
        Kill("controller", "probing"),
        Kill("controller", "fitting"),
        Kill("controller", "confirming"),
    ),
    "controller in rollouts": (
        Kill("controller", "unpacking"),
        Kill("controller", "benchmarking"),
        Kill("controller", "switching", back=committed),
        Kill("controller", "switching again"),
    ),
    "agent, and controller at a trigger": (
        Kill("agent", "profile not known"),
        Kill("agent-worker", "probing"),
        Kill("agent", "probing"),
        Kill("agent", "confirming"),
        Kill("agent", "unpacking"),
        Kill("agent-worker", "benchmarking"),
        Kill("agent", "benchmarking"),
        Kill("agent", "switching"),
        Kill("agent", "committed"),
        Kill("agent", "trigger open"),
        Kill("controller", "trigger open"),
        Kill("controller", "refitting"),
        Kill("agent-worker", "reconfirming"),
        Kill("agent", "reconfirming"),
        Kill("agent", "switching again"),
    ),
    "broker": (
        Kill("broker", "fitting"),
        Kill("broker", "benchmarking"),
        Kill("broker", "trigger open"),
    ),
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    try:
        made.start_controller()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("run", KILLS)
def test_what_was_killed_goes_on_where_it_was(stack: Stack, run: str) -> None:
    for name, step in STEPS.items():
        stack.save_broker()
        step.act(stack)
        for row in KILLS[run]:
            if MOMENTS[row.moment].step == name:
                carry_out(stack, row)
        stack.wait(f"the end of '{name}'", step.done)
    each_thing_happened_once(stack)
    stack.close()
    nothing_is_lost(stack)


@pytest.mark.parametrize(
    "sign", [".trust.making", "trust", "fitment.db", "broker/mosquitto.conf", "operator.token"]
)
def test_a_first_start_that_was_killed_is_done_again(tmp_path: Path, sign: str) -> None:
    stack = Stack(tmp_path)
    try:
        stack.begin_controller()
        wait_for(sign, (stack.data / sign).exists, every_s=0.001)
        stack.kill("controller")
        stack.start_controller()
        assert stack.client.status().addresses.link == "mqtt"
        stack.enroll()
    finally:
        stack.close()
    assert stack.left_over() == {}


def carry_out(stack: Stack, row: Kill) -> None:
    stack.wait(row.moment, MOMENTS[row.moment].seen)
    before = stack.samples()
    stack.kill(row.who)
    stack.wait("the time to start again", row.back)
    stack.start_again(row.who)
    assert stack.wait("an answer", lambda stack: (stack.samples(),))[0] >= before


def each_thing_happened_once(stack: Stack) -> None:
    """One fit, release, rollout and deployment for each of the two reasons, all successful."""
    first, again = jobs = stack.client.fits()
    (trigger,) = stack.client.triggers()
    assert [job.trigger for job in jobs] == ["", trigger.id]
    assert (trigger.kind.value, trigger.job) == ("stack_changed", again.id)
    releases = stack.client.releases()
    assert [release.counter for release in releases] == [1, 2]
    assert trigger.release == releases[1].id
    assert [made.release for made in stack.client.rollouts()] == [r.id for r in releases]
    ended = [(d.release, d.variant, d.outcome) for d in stack.deployments()]
    chosen = [job.choice.chosen for job in (first, again) if job.choice]
    assert ended == [
        (release.id, variant, Outcome.COMMITTED)
        for release, variant in zip(releases, chosen, strict=True)
    ]
    done = stack.wait("the last report", lambda s: s.slot().counter == 2 and s.slot())
    assert (done.variant, done.golden_ok, done.serving) == (chosen[1], True, True)
    audited = Counter((e.action, e.subject) for e in stack.client.audit(limit=100_000))
    assert {key: count for key, count in audited.items() if count > 1 and once(key[0])} == {}
    actions = Counter(action for action, _ in audited)
    assert actions["release_created"] == actions["rollout_created"] == actions["fit_started"] == 2
    assert actions["deployment_ended"] == actions["admitted_to_wave"] == 2
    assert actions["triggered"] == actions["trigger_closed"] == actions["admitted"] == 1


def once(action: str) -> bool:
    """A wave of one device's rollout opens as often as there are waves; the rest comes once."""
    return action != "wave_opened"


def nothing_is_lost(stack: Stack) -> None:
    """Both databases are sound, every sample is in one of them, and nobody is left running."""
    assert stack.left_over() == {}
    with (
        closing(sqlite3.connect(stack.data / "fitment.db")) as store,
        closing(sqlite3.connect(stack.edge / "journal.db")) as journal,
    ):
        for database in (store, journal):
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        ((outbox,),) = journal.execute("SELECT value FROM settings WHERE name = 'outbox'")
        ((last,),) = journal.execute("SELECT value FROM settings WHERE name = 'sequence'")
        waiting = {row[0] for row in journal.execute("SELECT sequence FROM outbox")}
        stored = store.execute("SELECT outbox, sequence, id FROM batch").fetchall()
        assert {row[0] for row in stored} == {outbox}
        sequences = [row[1] for row in stored]
        assert len(sequences) == len(set(sequences))
        assert set(sequences) | waiting == set(range(1, int(last) + 1))
        rows = store.execute("SELECT count(*) FROM sample GROUP BY batch").fetchall()
        assert len(rows) == len(stored)
        assert len(set(rows)) == 1  # as many values in each as in any other
