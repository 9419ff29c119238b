"""Twins for tests: a clock, a fit side without workers, and devices without machines.

They keep the promises of what they stand for and nothing else; no part of the program imports
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from controller.domain import fleet
from controller.reconcile.controller import Controller
from controller.reconcile.fitrunner import BuiltProbe, FitProgress
from fitment.core import digest, plain
from fitment.core.deployment import (
    UNDERSTANDS_INPUT,
    UNDERSTANDS_STACKS,
    UNDERSTANDS_WINDOWS,
    AllowanceReport,
    Assignment,
    BundleRef,
    DeploymentReport,
    DeploymentState,
    DesiredState,
    Lesser,
    Outcome,
    ReportedState,
    RungReport,
    SlotReport,
    Study,
    StudyKind,
)
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.link import Downlink, Uplink
from fitment.core.measurement import (
    Cost,
    CostKind,
    Energy,
    Latency,
    Measurement,
    ReadingStatus,
    Verdict,
)


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def fingerprint(*, runtime: str = "1.31", emulated: bool = False) -> Fingerprint:
    """A PC with one runtime."""
    return Fingerprint(
        chassis=Facet.of({"board": "twin"}),
        hardware=Facet.of({"machine": "x86_64", "cpu": "twin"}),
        stack=Facet.of({"runtime.onnx": runtime}),
        condition=Facet.of({"governor": "performance"}),
        emulated=emulated,
    )


def latency(ms: float) -> Latency:
    """A distribution without spread."""
    return Latency(
        count=300, mean_ms=ms, min_ms=ms, p50_ms=ms, p50_low_ms=ms, p50_high_ms=ms, p95_ms=ms
    )


def bundle(name: str) -> BundleRef:
    """A reference to content that is made from the name."""
    variant = digest.digest_of({"twin": name})
    content = _content(name)
    return BundleRef(
        variant=variant, name=name, archive=digest.digest_bytes(content),
        archive_bytes=len(content), target=f"bundles/{digest.hex_of(variant)}.tar.xz",
    )  # fmt: skip


def _content(name: str) -> bytes:
    return f"transport file of {name}".encode()


def variant(name: str, ms: float, *, drop: float = 0.0, model: str = "m") -> fleet.Variant:
    """A variant with a predicted latency and a guard drop."""
    return fleet.Variant(
        name=name, bundle=bundle(name), model=model, format="onnx", runtime="onnx",
        scheme="fp32" if name == "fp32" else "u8s8", recipe=(name,), recipe_digest=name,
        accuracy=0.9 - drop, accuracy_interval=None, agreement=0.99, sqnr_db=30.0,
        guard_accuracy=0.9 - drop, guard_accuracy_drop=drop, guard_agreement=0.99,
        integer_coverage=1.0, file_bytes=100_000, wire_bytes=80_000, macs=1_000_000,
        predicted=Cost(value=ms, unit="ms", kind=CostKind.INTERPOLATED),
    )  # fmt: skip


class ScriptedFits:
    """The fit side: every job yields the same variants after ``polls`` looks."""

    def __init__(
        self, folder: Path, variants: Sequence[fleet.Variant], *, polls: int = 1, error: str = ""
    ) -> None:
        self._folder = folder
        self._variants = tuple(variants)
        self._polls = polls
        self.error = error
        self.requests: dict[str, Mapping[str, Any]] = {}
        self._looks: dict[str, int] = {}

    def start(self, job: str, request: Mapping[str, Any]) -> None:
        self.requests.setdefault(job, request)

    def known(self, job: str) -> bool:
        return job in self.requests

    def poll(self, job: str) -> FitProgress:
        looks = self._looks[job] = self._looks.get(job, 0) + 1
        if looks <= self._polls:
            return FitProgress(step="fp32", fraction=0.5)
        if self.error:
            return FitProgress(done=True, error=self.error)
        archives = {v.bundle.archive: str(self._file(v.name)) for v in self._variants}
        result = {
            "variants": plain.to_plain(self._variants), "archives": archives,
            "fp32_accuracy": 0.9, "fp32_bytes": 400_000, "reasons": {"onnx": "a twin has no table"},
        }  # fmt: skip
        return FitProgress(step="done", fraction=1.0, done=True, result=result)

    def probe_bundle(self, runtime: str) -> BuiltProbe | None:
        name = f"probe-{runtime}"
        return BuiltProbe(ref=bundle(name), archive=str(self._file(name)))

    def cancel(self, job: str) -> None:
        self.requests.pop(job, None)

    def stop(self) -> None:
        self.requests.clear()

    def _file(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.tar.xz"
        path.write_bytes(_content(name))
        return path


Behave = Callable[[Assignment], Outcome | None]
"""How a twin ends an assignment; None: it stays at it."""


def commit(_assignment: Assignment) -> Outcome | None:
    """Every assignment succeeds."""
    return Outcome.COMMITTED


@dataclass(slots=True, kw_only=True)
class TwinDevice:
    """A device that answers studies at once and ends assignments as told."""

    name: str
    controller: Controller
    seen: Fingerprint = field(default_factory=fingerprint)
    times_ms: Mapping[str, float] = field(default_factory=dict)  # bundle name to latency
    takes_mj: Mapping[str, float] = field(default_factory=dict)  # bundle name to energy; a sensor
    verdict: Verdict = Verdict.VALID  # of what it times
    behave: Behave = commit
    gives_up: tuple[str, ...] = ()  # bundles by name: it says "done" and answers nothing
    hears_studies: bool = True  # else it never gets to them
    rechecks: bool = True  # it answers its golden inputs on a new stack before it reports that
    online: bool = False
    time_zone: str = ""
    allowance: AllowanceReport | None = None
    understands: tuple[str, ...] = (UNDERSTANDS_WINDOWS, UNDERSTANDS_INPUT, UNDERSTANDS_STACKS)
    no_room: str = ""  # why it holds no lesser variants; empty: it holds them
    wrong: tuple[str, ...] = ()  # bundles by name: rungs that answer wrongly where they belong
    desired: DesiredState | None = None
    generations: list[int] = field(default_factory=list)  # of all that it received
    slots: dict[str, SlotReport] = field(default_factory=dict)
    reports: dict[str, DeploymentReport] = field(default_factory=dict)
    studies_done: tuple[str, ...] = ()

    def connect(self) -> None:
        """Come online and report."""
        self.online = True
        self.controller.on_link_up(self.name)
        self.report()

    def disconnect(self) -> None:
        """Fall silent."""
        self.online = False
        self.controller.on_link_down(self.name)

    def receive(self, downlink: Downlink) -> None:
        """What the controller published; lost while offline."""
        if self.online and downlink.desired is not None:
            self.desired = downlink.desired
            self.generations.append(downlink.desired.generation)

    def change(self, seen: Fingerprint) -> None:
        """Become another machine, and say so."""
        self.seen = seen
        self.report()

    def step(self) -> None:
        """Do what is desired, and report."""
        if not self.online or self.desired is None:
            return
        for signed in self.desired.studies:
            self._study(plain.from_plain(Study, json.loads(signed.payload)))
        for signed in self.desired.assignments:
            self._deploy(plain.from_plain(Assignment, json.loads(signed.payload)))
        self.report()

    def report(self) -> None:
        """Say how things are."""
        if self.rechecks:
            self.slots = {k: self._stand(s) for k, s in self.slots.items()}
        reported = ReportedState(
            boot_id="boot", agent_version="1",
            observed_generation=max(self.generations, default=0),
            fingerprint=self.seen, slots=tuple(self.slots.values()),
            deployments=tuple(self.reports.values()), studies_done=self.studies_done,
            time_zone=self.time_zone, understands=self.understands, allowance=self.allowance,
        )  # fmt: skip
        self.controller.on_uplink(self.name, Uplink(reported=reported))

    def measure(self, ref: BundleRef, *, baseline: str = "") -> Measurement:
        """A measurement of one bundle as this twin times it."""
        before = self.times_ms.get(baseline)
        known = next((s for s in self.slots.values() if s.name == baseline), None)
        return Measurement(
            id=f"{self.name}-{ref.name}", bundle=ref.variant, runtime="onnx 1.31", threads=1,
            verdict=self.verdict, energy=self._energy(ref.name),
            latency=latency(self.times_ms.get(ref.name, 1.0)), agreement=0.99, golden_ok=True,
            baseline=known.variant if known is not None else "",
            baseline_latency=None if before is None else latency(before),
            hardware=self.seen.hardware.hash, stack=self.seen.stack.hash,
            emulated=self.seen.emulated,
        )  # fmt: skip

    def _energy(self, name: str) -> Energy:
        if name not in self.takes_mj:
            return Energy(status=ReadingStatus.UNAVAILABLE, reason="none")
        return Energy(status=ReadingStatus.MEASURED, value_mj=self.takes_mj[name])

    def _study(self, study: Study) -> None:
        if study.id in self.studies_done or not self.hears_studies:
            return
        self.studies_done = (*self.studies_done, study.id)
        if study.bundle.name in self.gives_up:
            return
        if study.kind is StudyKind.PROBE:
            self.controller.on_measurement(self.name, study.id, None, self._table())
        else:
            self.controller.on_measurement(self.name, study.id, self.measure(study.bundle), None)

    def _table(self) -> KernelTable:
        timing = KernelTiming(kernel="gemm:c8:k8", scheme="fp32", macs=64, p50_us=1.0, count=9)
        return KernelTable(
            runtime="onnx", runtime_version="1.31", hardware=self.seen.hardware.hash,
            stack=self.seen.stack.hash, threads=1, verdict=self.verdict,
            emulated=self.seen.emulated, timings=(timing,),
        )  # fmt: skip

    def _deploy(self, order: Assignment) -> None:
        known = self.reports.get(order.deployment)
        if known is not None and known.outcome is not None:
            return
        outcome = self.behave(order)
        running = self.slots.get(order.slot)
        self.reports[order.deployment] = DeploymentReport(
            deployment=order.deployment, slot=order.slot, variant=order.bundle.variant,
            state=DeploymentState.FETCHING if outcome is None else DeploymentState.IDLE,
            outcome=outcome, reasons=() if outcome is None else (f"it was {outcome.value}",),
            measurement=self.measure(order.bundle, baseline=running.name if running else ""),
        )  # fmt: skip
        if outcome is Outcome.COMMITTED:
            self.slots[order.slot] = SlotReport(
                slot=order.slot, variant=order.bundle.variant, name=order.bundle.name,
                release=order.release, counter=order.counter, golden_ok=True, serving=True,
                ladder=tuple(self._rung(n, lesser) for n, lesser in enumerate(order.ladder, 1)),
            )  # fmt: skip

    def _rung(self, number: int, lesser: Lesser) -> RungReport:
        return RungReport(
            rung=number, variant=lesser.bundle.variant, name=lesser.bundle.name,
            portable=lesser.portable, ready=not self.no_room,
            reason=self.no_room or lesser.reason, stacks=lesser.stacks,
        )  # fmt: skip

    def _stand(self, slot: SlotReport) -> SlotReport:
        """As an agent picks by its stack, after it has asked again what is for it."""
        stack = self.seen.stack.hash
        asked = tuple(
            replace(r, ready=False, reason="it answers the golden inputs wrongly")
            if stack in r.stacks and r.name in self.wrong else r
            for r in slot.ladder
        )  # fmt: skip
        here = [r.rung for r in asked if r.ready and stack in r.stacks]
        left = any(r.rung == slot.rung and r.stacks for r in asked)  # it is for another stack
        rung = here[0] if here else 0 if left else slot.rung
        return replace(slot, checked_stack=stack, ladder=asked, rung=rung)

    def lose_slots(self) -> None:
        """Forget what was installed, as a wiped disk does."""
        self.slots = {name: replace(s, variant="") for name, s in self.slots.items()}
