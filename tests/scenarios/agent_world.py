"""A device in a test: the real supervisor, journal and slots; link, workers and clock are twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.build import restore_slots
from agent.config import Settings
from agent.desk import Folders
from agent.domain.allowance import Metering
from agent.domain.ladder import Readings
from agent.identity import Identity
from agent.journal import open_journal
from agent.loop import Supervisor
from agent.parts import Parts
from agent.slots import Slots
from agent.testing import Behaviour, FakeClock, FakeRunner
from agent.transport.memory import MemoryLink
from agent.watch import FingerprintWatch, SettingsWatch
from fitment.core import digest
from fitment.core.deployment import (
    Assignment,
    BundleRef,
    DeploymentReport,
    DesiredState,
    ReportedState,
    SignedPayload,
    SlotReport,
    Study,
    StudyKind,
)
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.link import Downlink
from fitment.core.telemetry import Ack, Command, CommandKind

SLOT = "digits"
WALL_UNIX = 1_800_000_000.0


def bundle(name: str) -> BundleRef:
    variant = digest.digest_bytes(name.encode())
    return BundleRef(
        variant=variant, name=name, archive=digest.digest_bytes(b"archive" + name.encode()),
        archive_bytes=64, target=f"bundles/{digest.hex_of(variant)}.tar.xz",
    )  # fmt: skip


def assignment(
    deployment: str, *, name: str = "v1", counter: int = 1, **changes: object
) -> Assignment:
    base = Assignment(
        device="dev-1", deployment=deployment, rollout="r", release=f"release-{name}",
        release_target=f"releases/{name}.json", slot=SLOT, counter=counter, bundle=bundle(name),
        trial_s=0.0,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def study(identity: str, kind: StudyKind = StudyKind.PROBE) -> Study:
    return Study(id=identity, kind=kind, device="dev-1", bundle=bundle(f"study-{identity}"))


def signed(order: Assignment | Study) -> SignedPayload:
    return SignedPayload(payload=digest.canonical(order), key_id="k", signature=b"s")


def fingerprint(stack: str = "1.20", governor: str = "performance") -> Fingerprint:
    return Fingerprint(
        chassis=Facet.of({}),
        hardware=Facet.of({"machine": "x86_64"}),
        stack=Facet.of({"runtime.onnx": stack} if stack else {}),
        condition=Facet.of({"governor": governor}),
    )


class World:
    """One device with its disk; `boot` makes a new process on it."""

    wall_unix = WALL_UNIX
    boot_id = "boot"

    def __init__(
        self, folder: Path, script: dict[str, Sequence[Behaviour]] | None = None,
        settings: Settings | None = None,
    ) -> None:  # fmt: skip
        self.folders = Folders(data_dir=folder)
        self.clock = FakeClock(wall_unix_s=self.wall_unix)
        self.runner = FakeRunner(script)
        self.device = fingerprint()
        self.settings = replace(settings or Settings(), data_dir=folder, fingerprint_interval_s=5.0)
        self.identity = Identity(device="dev-1", gateway="localhost:1")
        self.samples = {"supervisor_anonymous_mib": 12.0}
        self.readings = Readings()
        self.metering = Metering(metered=False, why="a test says so")
        self.chain: list[tuple[str, str]] = []
        self.reports: dict[str, DeploymentReport] = {}
        self.generation = 0
        self.boot()

    def set(self, **changes: object) -> None:
        """Change settings, as an operator does who writes the file."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.folders.config.write_text("#" * int(self.clock.now_s))

    def boot(self, *, reachable: bool = True) -> None:
        """A new process: what was only in memory is gone."""
        self.link = MemoryLink(reachable=reachable)
        self.journal = open_journal(self.folders.journal)
        self.slots = Slots(self.folders.slots)
        restore_slots(self.journal, self.slots)
        self.supervisor = Supervisor(
            Parts(
                clock=self.clock, folders=self.folders, identity=self.identity,
                journal=self.journal, slots=self.slots, runner=self.runner, link=self.link,
                settings=SettingsWatch(self.settings, lambda: self.settings, self.folders.config),
                fingerprint=FingerprintWatch(lambda _: self.device), boot_id=self.boot_id,
                jitter=lambda: 0.5, sample=lambda _: self.samples, floor_unix=self.wall_unix - 100,
                time_zone=lambda now: now.time_zone,
                sense=lambda _root, _point: self.readings, metering=lambda _root: self.metering,
            )
        )  # fmt: skip
        self.link.start()
        self.heard = 0

    def kill(self) -> None:
        """End the process without a word."""
        self.journal.close()

    def wish(self, *orders: Assignment | Study, **changes: object) -> None:
        """Send a desired state; the generation rises by itself."""
        self.generation += 1
        desired = DesiredState(
            generation=self.generation, telemetry_interval_s=1e6,
            assignments=tuple(signed(o) for o in orders if isinstance(o, Assignment)),
            studies=tuple(signed(o) for o in orders if isinstance(o, Study)),
        )  # fmt: skip
        self.link.deliver(Downlink(desired=replace(desired, **changes)))  # type: ignore[arg-type]

    def command(self, kind: CommandKind, subject: str = "", deadline_unix_ns: int = 0) -> None:
        command = Command(id="c", kind=kind, subject=subject, deadline_unix_ns=deadline_unix_ns)
        self.link.deliver(Downlink(command=command))

    def ack(self, outbox: str, sequence: int) -> None:
        self.link.deliver(Downlink(ack=Ack(outbox=outbox, sequence=sequence)))

    def run(self, seconds: float = 60.0) -> None:
        """Let the device live for a while, without waiting for it."""
        until_s = self.clock.now_s + seconds
        while self.clock.now_s < until_s:
            wait_s = self.supervisor.step()
            self.listen()
            self.clock.advance(max(wait_s, 0.001))

    def finish(self, deployment: str, *, limit_s: float = 4000.0) -> DeploymentReport:
        """Let the device live until a deployment has ended."""
        until_s = self.clock.now_s + limit_s
        while self.clock.now_s < until_s:
            self.steps(1)
            report = self.reports.get(deployment)
            if report is not None and report.outcome is not None:
                return report
        raise AssertionError(f"{deployment} did not end: {self.chain}")

    def steps(self, count: int) -> None:
        for _ in range(count):
            wait_s = self.supervisor.step()
            self.listen()
            self.clock.advance(max(wait_s, 0.001))

    def until(self, state: str, deployment: str = "d-1", *, limit: int = 2000) -> None:
        """Until a deployment was reported in this state."""
        for _ in range(limit):
            self.steps(1)
            if state in self.states(deployment):
                return
        raise AssertionError(f"never in {state}: {self.chain}")

    def listen(self) -> None:
        """Take down which states were reported."""
        for uplink in self.link.received[self.heard :]:
            for report in uplink.reported.deployments if uplink.reported else ():
                state = report.state.value
                if self.states(report.deployment)[-1:] != [state]:
                    self.chain.append((report.deployment, state))
                self.reports[report.deployment] = report
        self.heard = len(self.link.received)

    def states(self, deployment: str) -> list[str]:
        return [state for name, state in self.chain if name == deployment]

    @property
    def reported(self) -> ReportedState:
        return next(u.reported for u in reversed(self.link.received) if u.reported is not None)

    def report(self, deployment: str) -> DeploymentReport:
        """The newest that was said of it."""
        return self.reports[deployment]

    def slot(self) -> SlotReport | None:
        return next((s for s in self.reported.slots if s.slot == SLOT), None)

    def serves(self) -> str:
        """Name of the variant that an application finds by the link, or empty."""
        manifest = self.slots.link(SLOT) / "bundle.json"
        if not manifest.exists():
            return ""
        names = {bundle(n).variant: n for n in ("v1", "v2", "v3")}
        return names[manifest.read_text()]
