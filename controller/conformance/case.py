"""What the checks work with: a controller of their own, one agent, and what came from it."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from controller.artifacts.packing import bundle_ref, pack_into
from controller.conformance import bundles, wires
from controller.conformance.records import Asked, Records
from controller.conformance.servers import Faults, Servers
from controller.conformance.spec import Fails, NotRun, hold
from controller.conformance.subject import Commands, Subject
from controller.trust import Trust
from fitment.core.bundle import ReleaseManifest
from fitment.core.deployment import (
    Assignment,
    BenchmarkPlan,
    BundleRef,
    DeploymentReport,
    DeploymentState,
    DesiredState,
    Outcome,
    ReportedState,
    SignedPayload,
    SlotReport,
    Study,
    StudyKind,
)
from fitment.core.link import Downlink
from fitment.core.telemetry import Command, CommandKind
from fitment.wire import codec, topics

T = TypeVar("T")

DEVICE: Final = "conformance-1"
SLOT: Final = "conformance"
QUIET_S: Final = 2.0
"""How long nothing must happen where nothing may."""
PLAN: Final = BenchmarkPlan(min_runs=20, min_seconds=0.05, max_seconds=2.0, warmup_max_seconds=0.2)
TELEMETRY_S: Final = 0.5
_ROUNDS: Final = 2
"""An end is acknowledged by the desired state after the one that brought it about."""
_SETTLE_S: Final = 15.0  # for an agent that does not say that it is idle again
_BUSY_YET: Final = (DeploymentState.FETCHING, DeploymentState.VERIFYING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is checked, and how."""

    commands: Commands
    folder: Path
    link: str = "grpc"
    host: str = "127.0.0.1"
    within_s: float = 60.0  # for whatever an agent must do sooner or later


class Case:
    """One run: opened once, used by all checks in turn."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.folder, self.within_s = setup.folder, setup.within_s
        self.trust = Trust.create(
            setup.folder / "trust", setup.folder / "offline", [setup.host, "localhost"]
        )
        self.records = Records()
        self.servers = Servers(setup.folder, self.trust, self.records, host=setup.host)
        self.wire = wires.make(setup.link, setup.folder, self.servers, self.records, DEVICE)
        self.subject = Subject(
            setup.commands, setup.folder / "agent", within_s=max(setup.within_s, 60.0)
        )
        self.enrolled: int | None = None  # exit status
        self.counter = 1
        self.runtime = ""
        self._numbers = itertools.count(1)
        self._generation = 0
        self._cut = False

    def close(self) -> None:
        self.subject.stop()
        self.wire.stop()
        self.servers.stop()

    # The agent

    def enroll(self) -> int:
        """Enrol it, once; gives the exit status."""
        if self.enrolled is None:
            self.enrolled = self.subject.enroll(
                controller=self.servers.enroll_address, token=self.servers.token(), device=DEVICE
            )
        return self.enrolled

    def ready(self) -> ReportedState:
        """An agent that runs and has reported; its newest report.

        Raises:
            NotRun: it cannot be enrolled, or does not report: nothing more can be seen.
        """
        if self.enroll() != 0:
            raise NotRun(f"it could not be enrolled: {self.subject.last_words()}")
        if not self.subject.running:
            self.subject.start()
        found = self.records.wait(self.records.reports, self.within_s)
        if not found:
            raise NotRun(
                f"no reported state within {self.within_s:g} s: {self.subject.last_words()}"
            )
        names = found[-1].fingerprint.runtimes()
        self.runtime = next((name for name in bundles.FORMATS if name in names), "")
        return found[-1]

    def fresh(self) -> None:
        """Start it anew if its link was cut before: its waits grow with each cut, and rightly."""
        if self._cut and self.subject.running:
            self.subject.stop()
            since = self.records.mark()
            self.subject.start()
            self.records.wait(lambda: self.records.reports(since), self.within_s)
            self._cut = False

    def cut(self) -> None:
        """End the connection that stands."""
        self._cut = True
        self.wire.cut()

    def settle(self) -> None:
        """Take back what goes wrong and what is wished for; wait until it is seen."""
        self.servers.faults.released.set()
        self.servers.faults = Faults()
        for _ in range(_ROUNDS if self.records.reports() else 0):
            over = functools.partial(self._over, self.wish())
            self.records.wait(over, min(self.within_s, _SETTLE_S))
            if not self.records.reports()[-1].deployments:
                return

    def _over(self, generation: int) -> bool:
        """Whether it has seen that nothing is wished for, and nothing is in progress."""
        newest = self.records.reports()[-1]
        ended = all(report.outcome is not None for report in newest.deployments)
        return newest.observed_generation >= generation and ended

    # What is said to it

    def wish(self, *orders: SignedPayload, studies: tuple[SignedPayload, ...] = ()) -> int:
        """Desire just this; gives the generation."""
        desired = DesiredState(
            generation=self.next_generation(), assignments=orders, studies=studies,
            telemetry_interval_s=TELEMETRY_S, reconnect_jitter_s=0.0,
        )  # fmt: skip
        self.raw(topics.DESIRED, codec.encode(Downlink(desired=desired)))
        return self._generation

    def next_generation(self) -> int:
        """Generations grow with every desired state."""
        self._generation += 1
        return self._generation

    def raw(self, kind: topics.Kind, payload: bytes) -> None:
        """Send a serialized `Downlink` as it is."""
        self.wire.send(DEVICE, kind, payload)

    def command(self, kind: CommandKind, subject: str = "", *, late: bool = False) -> None:
        deadline_s = time.time() + (-60.0 if late else 60.0)
        command = Command(
            id=f"c-{next(self._numbers)}", kind=kind, subject=subject,
            deadline_unix_ns=int(deadline_s * 1e9),
        )  # fmt: skip
        self.raw(topics.COMMAND, codec.encode(Downlink(command=command)))

    def answers(self) -> None:
        """Ask for a report and wait for it: what was sent before has come, too.

        Raises:
            Fails: none comes.
        """
        since = self.records.mark()
        self.command(CommandKind.REPORT)
        came = self.records.wait(lambda: self.records.reports(since), self.within_s)
        hold(came, f"no report within {self.within_s:g} s of the command")

    def sees(self, generation: int) -> None:
        """Wait until it has seen a desired state: what was sent before that has come, too.

        Raises:
            Fails: its reports never say so.
        """

        def found() -> bool:
            return any(r.observed_generation >= generation for r in self.records.reports())

        seen = self.records.wait(found, self.within_s)
        hold(seen, f"no report that observed generation {generation}")

    def sign(self, order: Assignment | Study | dict[str, Any]) -> SignedPayload:
        return self.trust.director.sign(order)

    # Orders

    def bundle(self, *, wrong: bool = False, padding: int = 0, listed: bool = True) -> BundleRef:
        """A new bundle that this agent can run, stored and (unless told not to) signed.

        Raises:
            NotRun: there is no test model for its runtimes.
        """
        self.ready()
        if not self.runtime:
            raise NotRun(
                f"there are test models for {', '.join(bundles.FORMATS)}; the agent's stack facts"
                " name neither (runtime.<name>)"
            )
        name = f"variant-{next(self._numbers)}"
        folder = self.folder / "bundles" / name
        bundles.make(folder, self.runtime, name, wrong=wrong, padding=padding)
        ref = bundle_ref(pack_into(folder, self.servers.blobs, self.folder), name)
        if listed:
            path = self.servers.blobs.path(ref.archive)
            self.trust.repository.add_bundles([(ref.target, path)])
        return ref

    def order(self, ref: BundleRef, *, counter: int | None = None, **changes: Any) -> Assignment:
        """An approved order of the next counter."""
        if counter is None:
            self.counter += 1
            counter = self.counter
        number = next(self._numbers)
        release = ReleaseManifest(
            release=f"r-{number}", model=SLOT, version="1", slot=SLOT, counter=counter,
            variants={"any": changes.pop("released", ref.variant)},
        )  # fmt: skip
        made = Assignment(
            device=DEVICE, deployment=f"d-{number}", rollout="conformance",
            release=release.release, release_target=self.trust.repository.approve(release),
            slot=SLOT, counter=counter, bundle=ref, benchmark=PLAN, trial_s=0.1,
        )  # fmt: skip
        return replace(made, **changes)

    def study(self, ref: BundleRef) -> Study:
        return Study(
            id=f"s-{next(self._numbers)}", kind=StudyKind.BENCHMARK, device=DEVICE, bundle=ref,
            benchmark=PLAN,
        )  # fmt: skip

    # What is seen of it

    def slot(self) -> SlotReport:
        """What it says that the slot holds."""
        reports = self.records.reports()
        held = [slot for slot in reports[-1].slots if slot.slot == SLOT] if reports else []
        return held[0] if held else SlotReport(slot=SLOT)

    def ended(self, order: Assignment) -> DeploymentReport:
        """The first report of a deployment's end.

        Raises:
            Fails: it does not end in time.
        """

        def found() -> DeploymentReport | None:
            seen = self.records.deployment(order.deployment)
            return next((report for report in seen if report.outcome is not None), None)

        report = self.records.wait(found, self.within_s)
        if report is None:
            seen = [r.state.value for r in self.records.deployment(order.deployment)]
            raise Fails(
                f"no outcome within {self.within_s:g} s; states reported: {_listed(seen)};"
                f" its last words: {self.subject.last_words()}"
            )
        return report

    def committed(self, order: Assignment) -> SlotReport:
        """The slot, once it holds what was ordered.

        Raises:
            Fails: the deployment ends otherwise, or the slot does not say so.
        """
        report = self.ended(order)
        hold(
            report.outcome is Outcome.COMMITTED,
            f"outcome {report.outcome.value if report.outcome else '-'}:"
            f" {'; '.join(report.reasons)}",
        )
        variant = order.bundle.variant
        self.records.wait(lambda: self.slot().variant == variant, self.within_s)
        hold(self.slot().variant == variant, "it says committed, and its slot holds another")
        return self.slot()

    def refused(self, order: Assignment, before: SlotReport) -> str:
        """What became of an order that must not be carried out, in words.

        Raises:
            Fails: it was carried out, or does not end.
        """
        report = self.ended(order)
        why = "; ".join(report.reasons) or "no reason given"
        hold(report.outcome is not Outcome.COMMITTED, "it was committed")
        hold(self.slot().variant == before.variant, "the slot holds it, whatever the outcome says")
        assert report.outcome is not None
        return f"outcome {report.outcome.value}: {why}"

    def kept_out(self, order: Assignment, before: SlotReport, came: Callable[[], T]) -> str:
        """That an order which may be tried again gets no further than verifying.

        ``came`` is true once the agent has had what it must not believe.

        Raises:
            Fails: it went on, or never looked.
        """
        hold(self.records.wait(came, self.within_s), "it never asked for what it must check")
        self.records.wait(lambda: self._beyond(order), QUIET_S)
        beyond = self._beyond(order)
        hold(not beyond, f"it went on to {_listed(beyond)}")
        hold(self.slot().variant == before.variant, "the slot holds it")
        seen = self.records.deployment(order.deployment)
        state = seen[-1].state.value if seen else "nothing reported"
        return f"{QUIET_S:g} s later it stands at: {state}"

    def _beyond(self, order: Assignment) -> list[str]:
        """States reported that show belief; an end other than committed shows none."""
        seen = self.records.deployment(order.deployment)
        bad = [r for r in seen if r.outcome is Outcome.COMMITTED]
        bad += [r for r in seen if r.outcome is None and r.state not in _BUSY_YET]
        return [r.state.value for r in bad if r.state is not DeploymentState.ROLLING_BACK]

    def fetches(self, ref: BundleRef) -> list[Asked]:
        return self.records.asked("FetchArtifact", ref.archive)

    def fetching(self, ref: BundleRef) -> None:
        """Wait until it has begun to fetch.

        Raises:
            Fails: it does not.
        """
        begun = self.records.wait(lambda: self.fetches(ref), self.within_s)
        hold(begun, f"it never fetched: {self.subject.last_words()}")


def _listed(words: list[str]) -> str:
    return ", ".join(dict.fromkeys(words)) or "none"
