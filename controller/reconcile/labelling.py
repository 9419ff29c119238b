"""Labels from the field: stored once, counted at once, and heeded by rollouts, late as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from controller.domain import field as accuracy
from controller.domain import fleet, gates, holding, labels, plan, rollout
from controller.domain.field import Slice, Word
from controller.domain.fleet import RolloutState
from controller.domain.judgement import GateReport, GateVerdict
from controller.domain.labels import FieldTally, LabelPage, Line, Posted
from controller.errors import NotFound, UserError
from controller.reconcile.context import Context
from controller.store.base import Store
from fitment.core import digest
from fitment.core.deployment import Outcome

LINES_MAX = 2_000
"""In one request; more are several."""
LATE_S = 30 * 86400.0
"""For so long after its end a rollout is held to labels that come late."""
SKEW_S = 300.0
"""By so much a clock may be wrong that says when an answer was given."""
FELL = "field_accuracy_fell"


def post(context: Context, device: str, given: Sequence[Mapping[str, Any]]) -> Posted:
    """Store labels of one device; all of them, or none.

    Raises:
        NotFound: there is no such device.
        UserError: a line cannot be read, or nothing says which release it is of.
    """
    known = context.store.devices.get(device)
    if known is None:
        raise NotFound(f"no device is named '{device}'; see: fitment device list")
    if len(given) > LINES_MAX:
        raise UserError(f"{len(given)} labels in one request; at most {LINES_MAX} are taken")
    lines = _read(context, known, given)
    with context.store.transaction():
        counted, touched = _write(context.store, device, lines)
        fell = tuple(_late(context, touched))
    return replace(counted, fell=fell)


def _read(context: Context, device: fleet.Device, given: Sequence[Mapping[str, Any]]) -> list[Line]:
    now, had = context.clock(), _had(context, device)
    return [_one(line, f"label {n}", device.name, now, had) for n, line in enumerate(given, 1)]


def _one(
    given: Mapping[str, Any], which: str, device: str, now: float, had: Sequence[fleet.Deployment]
) -> Line:
    if given.get("device", device) != device:
        raise UserError(f"{which} is of '{given['device']}', posted for '{device}'")
    try:
        return _placed(labels.read(given, now), had)
    except ValueError as error:
        raise UserError(f"{which}: {error}; none was taken") from error


def _had(context: Context, device: fleet.Device) -> list[fleet.Deployment]:
    """What committed on a device, oldest first."""
    every = plan.own(device, context.store.deployments.find(device=device.name))
    return sorted((d for d in every if d.outcome is Outcome.COMMITTED), key=lambda d: d.ended_at)


def _placed(line: Line, had: Sequence[fleet.Deployment]) -> Line:
    """The line with its release and variant: as it says, or what served when it was answered.

    Raises:
        ValueError: the device never had that, or several slots served.
    """
    fits = [d for d in had if line.release in ("", d.release) and _is(d, line.variant)]
    if not fits:
        what = line.release or line.variant or "anything"
        raise ValueError(f"the device never committed {what}")
    if not line.release:
        fits = [d for d in fits if d.ended_at <= line.at] or fits[:1]
        newest = {d.slot: d for d in fits}
        if len(newest) > 1:
            raise ValueError(f"slots {', '.join(sorted(newest))} served then: name its 'release'")
    elif line.at < fits[0].created_at - SKEW_S:
        raise ValueError(
            f"'time' {line.at:.0f} is before the device was given release '{line.release}'"
            f" ({fits[0].created_at:.0f}): when was it answered?"
        )
    chosen = fits[-1]
    return replace(line, release=chosen.release, variant=chosen.variant)


def _is(deployment: fleet.Deployment, variant: str) -> bool:
    if not variant:
        return True
    whole = deployment.variant
    return len(variant) >= 8 and (whole.startswith(variant) or digest.hex_of(whole).startswith(
        variant
    ))  # fmt: skip


def _write(store: Store, device: str, lines: Iterable[Line]) -> tuple[Posted, set[str]]:
    by_page: dict[str, dict[str, Line]] = {}
    empty: dict[str, LabelPage] = {}
    for line in lines:
        page = labels.page_of(device, line.at)
        empty[page.key] = page
        by_page.setdefault(page.key, {})[line.id] = line
    counted, touched = Posted(), set()
    for key, mine in by_page.items():
        page = store.pages.get(key) or empty[key]
        news = {name: line for name, line in mine.items() if page.lines.get(name) != line}
        changed = sum(name in page.lines for name in news)
        counted = replace(
            counted, known=counted.known + len(mine) - len(news),
            changed=counted.changed + changed, taken=counted.taken + len(news) - changed,
        )  # fmt: skip
        if news:
            touched |= {line.release for line in news.values()}
            _replace(store, page, news)
    return counted, touched


def _replace(store: Store, page: LabelPage, news: Mapping[str, Line]) -> None:
    """Write a page and what it comes to."""
    try:
        after = labels.written(page, news)
    except ValueError as error:
        raise UserError(str(error)) from error
    before, now = labels.tallied(page), labels.tallied(after)
    store.pages.put(after)
    for key in set(before) - set(now):
        store.tallies.delete(key)
    for key, tally in now.items():
        if before.get(key) != tally:
            store.tallies.put(tally)


def _late(context: Context, releases: Iterable[str]) -> Iterable[str]:
    """Rollouts that are over and that these labels speak against; each is told once.

    One that runs is judged by the loop, which halts it.
    """
    for release in sorted(releases):
        for made in context.store.rollouts.find(release=release):
            over = made.state is RolloutState.COMPLETED
            if not over or not asks(made.gate) or context.clock() - _ended(context, made) > LATE_S:
                continue
            told = context.store.audit.find(subject=made.id, action=FELL)
            why = "" if told else gates.failed(failing(context, made))
            if why:
                context.record("controller", FELL, made.id, {"reason": why})
                said = f"labels that came late speak against it: {why}"
                context.store.rollouts.put(replace(made, reasons=(*made.reasons, said)))
                yield made.id


def _ended(context: Context, made: fleet.Rollout) -> float:
    """When the last device of a rollout was done with it."""
    found = context.store.deployments.find(rollout=made.id)
    return max((d.ended_at for d in found), default=made.created_at)


def failing(context: Context, made: fleet.Rollout) -> tuple[GateReport, ...]:
    """What of its labels would halt it; other gates had their time."""
    devices = {d.name: d for d in context.store.devices.find()}
    only = replace(
        made, gate=fleet.Gate(
            max_failure_share=made.gate.max_failure_share, latency_ratio_max=None,
            above_share=made.gate.above_share, false_halt_rate=made.gate.false_halt_rate,
            cluster=made.gate.cluster, field_drop_max=made.gate.field_drop_max,
            must_pass=made.gate.must_pass,
        ),
        acknowledged=(),
    )  # fmt: skip
    deployments, earlier = rollout.attempts(context.store.deployments.find(rollout=made.id))
    view = rollout.View(
        rollout=only, targets=[devices[name] for name in deployments if name in devices],
        deployments=deployments, earlier=earlier, now=context.clock(),
        words=words(context.store, made),
    )  # fmt: skip
    return tuple(
        r
        for r in rollout.reports(view, final=True)
        if r.gate in accuracy.GATES and r.verdict is GateVerdict.FAILED
    )


def forget(store: Store, before_s: float, limit: int) -> int:
    """Drop pages of labels, and what they come to, of hours before a moment.

    Goes through tallies in the order in which they came, up to the first that is to be kept: what
    was posted late stays until then, for no longer after it was posted than others.

    Returns:
        How many tallies went, at most ``limit``.
    """
    first = (tally for _, tally in store.tallies.page(limit))
    old = list(itertools.takewhile(lambda tally: tally.start_s + labels.HOUR_S <= before_s, first))
    if not old:
        return 0
    with store.transaction():
        for key in {labels.page_of(tally.device, tally.start_s).key for tally in old}:
            store.pages.delete(key)
        for tally in old:
            store.tallies.delete(tally.key)
    return len(old)


def asks(gate: fleet.Gate) -> bool:
    """Whether a gate listens to labels."""
    return gate.field_drop_max is not None or gate.must_pass


def words(store: Store, made: fleet.Rollout) -> dict[str, Word]:
    """What labels say of each device of a rollout."""
    tallies, devices = _known(store, made)
    return accuracy.words(made, tallies, devices)


def _known(
    store: Store, made: fleet.Rollout
) -> tuple[dict[str, list[FieldTally]], dict[str, fleet.Device]]:
    """Tallies of each device that has labels of the rollout's release, or is of its control.

    Only those of releases of its slot: what other models of a device answer says nothing of it.
    """
    named = {t.device for t in store.tallies.find(release=made.release)}
    if made.control_below:
        every = store.devices.find(revoked=False)
        named |= {d.name for d in every if holding.belongs(made, d)}
    release = store.releases.get(made.release)
    of_slot = {r.id for r in store.releases.find(slot=release.slot)} if release else {made.release}
    tallies = {
        name: [t for t in store.tallies.find(device=name) if t.release in of_slot]
        for name in sorted(named)
    }
    found = {name: store.devices.get(name) for name in tallies}
    return tallies, {name: device for name, device in found.items() if device is not None}


def compared(store: Store, made: fleet.Rollout) -> tuple[Slice, ...]:
    """New beside old beside the control group, by slice, for people; nothing without labels."""
    if not asks(made.gate) and not store.tallies.page(1, release=made.release):
        return ()
    tallies, devices = _known(store, made)
    new: list[FieldTally] = []
    old: list[FieldTally] = []
    for name, mine in tallies.items():
        if name in devices and not holding.is_held(made, devices[name]):
            one, other = accuracy.parted(made, mine)
            new += one
            old += other if one else []
    change = accuracy.changes(made, tallies, devices)
    parts = {
        "new": accuracy.summed(new), "old": accuracy.summed(old),
        "control before": {name: c.before for name, c in change.items()},
        "control since": {name: c.since for name, c in change.items()},
    }  # fmt: skip
    return tuple(row for group, counts in parts.items() for row in accuracy.slices(group, counts))


@dataclass(slots=True)
class Words:
    """What labels say of rollouts, read again when labels were written."""

    store: Store
    _kept: dict[str, dict[str, Word]] = field(default_factory=dict)
    _news: bool = True

    @classmethod
    def of(cls, store: Store) -> Words:
        """Begin to watch."""
        made = cls(store)
        store.tallies.watch(made._tell)
        return made

    def _tell(self, _key: str) -> None:
        self._kept.clear()
        self._news = True

    def news(self) -> bool:
        """Whether labels came since this was last asked."""
        came, self._news = self._news, False
        return came

    def about(self, made: fleet.Rollout) -> dict[str, Word]:
        """By device; empty where no gate asks."""
        if not asks(made.gate):
            return {}
        if made.id not in self._kept:
            self._kept[made.id] = words(self.store, made)
        return self._kept[made.id]
