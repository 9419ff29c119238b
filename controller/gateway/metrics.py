"""What the controller tells Prometheus, in the text format that it reads (version 0.0.4).

A table of families and a writer of our own: the usual library keeps a registry that lives as long
as the process and counts by itself, while everything here is counted by the store when asked.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.domain import fleet
from controller.reconcile.engine import TICK_BUCKETS_S, Ticks
from controller.store.base import Store
from fitment.core import digest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MEASURED_MAX = 300
"""Newest deployments that are looked at for latencies; reading more would hold the loop up."""
_MS = 1000.0

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is told beside the store's records."""

    version: str
    link: str
    link_up: bool
    ticks: Ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric and its samples."""

    name: str
    kind: str  # "gauge", "counter", "histogram"
    help: str
    samples: tuple[Sample, ...]


def collect(store: Store, facts: Facts) -> tuple[Family, ...]:
    """Everything, in a fixed order; a family without samples is there nevertheless."""
    held = store.telemetry.held()
    return (
        _gauge("info", "Always 1; says what runs.", [_one(1, version=facts.version)]),
        _gauge("link_up", "1 while the link to devices stands.", [_link(facts)]),
        _gauge("devices", "Enrolled devices.", _devices(store)),
        _gauge("deployments", "Deployments by outcome; open ones have none yet.", _outcomes(store)),
        _gauge("rollouts", "Rollouts by state.", _told(store.rollouts.tally("state"), "state")),
        _gauge("fits", "Fit jobs by status.", _told(store.jobs.tally("status"), "status")),
        _gauge("triggers", "Reasons to fit again.", _triggers(store)),
        _gauge("telemetry_rows", "Raw telemetry rows that are kept.", [_one(held.rows)]),
        _counter("telemetry_rows_total", "Telemetry rows that were ever stored.", held.rows_ever),
        _gauge("telemetry_rollups", "Rollups that are kept.", [
            _one(held.hours, period="hour"), _one(held.days, period="day"),
        ]),
        _ticks(facts.ticks),
        _counter("loop_tick_cpu_seconds_total", "Processor time of ticks.", facts.ticks.cpu_s),
        _counter("loop_tick_failures_total", "Ticks that failed as a whole.", facts.ticks.failures),
        *_latencies(store),
    )  # fmt: skip


def write(families: Iterable[Family]) -> str:
    """The text that Prometheus reads."""
    lines: list[str] = []
    for family in families:
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        lines += [
            f"{family.name}{suffix}{_labels(labels)} {_number(value)}"
            for suffix, labels, value in family.samples
        ]
    return "\n".join(lines) + "\n"


def _link(facts: Facts) -> Sample:
    return _one(facts.link_up, link=facts.link)


def _devices(store: Store) -> list[Sample]:
    counted: dict[tuple[str, str], int] = {}
    for (profile, revoked, online), count in store.devices.tally(
        "profile", "revoked", "online"
    ).items():
        state = "revoked" if revoked == "true" else "online" if online == "true" else "offline"
        counted[profile, state] = counted.get((profile, state), 0) + count
    return _told(counted, "profile", "state")


def _outcomes(store: Store) -> list[Sample]:
    return [
        _one(count, outcome="open" if outcome == "null" else outcome)
        for (outcome,), count in sorted(store.deployments.tally("outcome").items())
    ]


def _triggers(store: Store) -> list[Sample]:
    still_open = store.triggers.tally("kind", closed_at=0.0)
    samples = []
    for (kind,), count in sorted(store.triggers.tally("kind").items()):
        waiting = still_open.get((kind,), 0)
        samples += [_one(waiting, kind=kind, state="open")]
        samples += [_one(count - waiting, kind=kind, state="closed")]
    return samples


def _ticks(ticks: Ticks) -> Family:
    passed = 0
    samples: list[Sample] = []
    for bound, count in zip((*TICK_BUCKETS_S, float("inf")), ticks.buckets, strict=True):
        passed += count
        samples.append(("_bucket", (("le", _number(bound)),), float(passed)))
    samples += [("_sum", (), ticks.seconds), ("_count", (), float(passed))]
    return Family(
        name="fitment_loop_tick_seconds", kind="histogram", help="How long ticks of the loop took.",
        samples=tuple(samples),
    )  # fmt: skip


def _latencies(store: Store) -> tuple[Family, Family]:
    """Of each device the newest measurement, per profile; other verdicts are other samples."""
    newest: dict[tuple[str, str], fleet.Deployment] = {}
    for _, deployment in store.deployments.page(MEASURED_MAX, newest=True):
        taken = deployment.measurement
        if taken is not None and taken.latency is not None:
            newest.setdefault((deployment.device, deployment.slot), deployment)
    found: dict[Labels, list[float]] = {}
    for deployment in newest.values():
        taken = deployment.measurement
        assert taken is not None
        assert taken.latency is not None
        labels = (
            ("profile", deployment.cohort.profile if deployment.cohort else ""),
            ("model", deployment.slot),
            ("variant", digest.short(taken.bundle)),
            ("verdict", taken.verdict.value),
            ("emulated", str(taken.emulated).lower()),
        )
        found.setdefault(labels, []).append(taken.latency.p50_ms / _MS)
    medians = [("", labels, statistics.median(values)) for labels, values in found.items()]
    counts = [("", labels, float(len(values))) for labels, values in found.items()]
    return (
        _gauge("latency_p50_seconds", "Median over devices of the newest measured p50.", medians),
        _gauge("latency_devices", "Devices behind each fitment_latency_p50_seconds.", counts),
    )


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(name=f"fitment_{name}", kind="gauge", help=text, samples=tuple(samples))


def _counter(name: str, text: str, value: float) -> Family:
    return Family(name=f"fitment_{name}", kind="counter", help=text, samples=(_one(value),))


def _told(counts: Mapping[Any, int], *names: str) -> list[Sample]:
    return [
        ("", tuple(zip(names, key, strict=True)), float(count))
        for key, count in sorted(counts.items())
    ]


def _one(value: float, **labels: str) -> Sample:
    return ("", tuple(labels.items()), float(value))


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(value)
