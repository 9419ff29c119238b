"""What operators keep about devices: labels, notes, and the whole of a device's history.

They are the operators' own: no device writes them, and they are exported and imported as lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from controller.domain import fleet, history
from controller.domain.belonging import DeviceLine, GroupLine, Imported, Note, NoteLine
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import grouping
from controller.reconcile.context import ACTING, Context

LABELS_MOST = 64
NOTE_MOST = 4000
"""Characters of a note."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}\Z")
_VALUE_MOST = 256


def label(
    context: Context, name: str, given: Mapping[str, str], taken: Sequence[str] = ()
) -> fleet.Device:
    """Give a device labels, and take some from it.

    Raises:
        NotFound: there is no such device.
        UserError: a label cannot be one, or is not there.
    """
    device = _device(context, name)
    missing = [key for key in taken if key not in device.labels]
    if missing:
        raise UserError(f"'{name}' has no label '{missing[0]}'")
    labels = {k: v for k, v in device.labels.items() if k not in taken} | dict(given)
    return _labelled(context, device, labels)


def _labelled(context: Context, device: fleet.Device, labels: Mapping[str, str]) -> fleet.Device:
    check_labels(labels)
    if labels == device.labels:
        return device
    changed = replace(device, labels=dict(labels))
    before, after = (", ".join(f"{k}={v}" for k, v in d.labels.items()) for d in (device, changed))
    with context.store.transaction():
        context.store.devices.put(changed)
        details = {"before": before, "labels": after}
        context.record("operator", "labelled", device.name, details)
    return changed


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse labels that nobody could ask for again.

    Raises:
        UserError: saying which.
    """
    if len(labels) > LABELS_MOST:
        raise UserError(f"a device has at most {LABELS_MOST} labels, not {len(labels)}")
    for key, value in labels.items():
        if not _KEY.match(key):
            raise UserError(f"'{key}' cannot be a label (use A-Z a-z 0-9 _ . / -, at most 63)")
        if len(value) > _VALUE_MOST or not value.isprintable():
            raise UserError(
                f"the label '{key}' has at most {_VALUE_MOST} characters, all of them printable"
            )


def note(context: Context, name: str, text: str) -> Note:
    """Write something about a device; it stays with it.

    Raises:
        NotFound: there is no such device.
        UserError: there is nothing in it, or too much.
    """
    _device(context, name)
    author = f"operator:{ACTING.get()}" if ACTING.get() else "operator"
    made = Note(
        id=context.new_id(), device=name, at=context.clock(), author=author,
        text=_checked_text(text),
    )  # fmt: skip
    with context.store.transaction():
        context.store.notes.add(made)
        context.record("operator", "noted", name, {"note": made.id})
    return made


def _checked_text(text: str) -> str:
    if not text.strip():
        raise UserError("a note needs a text")
    if len(text) > NOTE_MOST:
        raise UserError(f"a note has at most {NOTE_MOST} characters, not {len(text)}")
    return text.strip()


def _check_written(context: Context, written: NoteLine) -> None:
    _checked_text(written.text)
    if not 0 <= written.at <= context.clock() + 86_400.0:
        raise UserError(f"a note of the moment {written.at:g} (seconds since 1970) cannot be")
    if len(written.author) > 200 or not written.author.isprintable():
        raise UserError("a note's author has at most 200 characters, all of them printable")


def events(context: Context, name: str) -> tuple[history.Event, ...]:
    """A device's history, oldest first.

    Raises:
        NotFound: there is no such device.
    """
    _device(context, name)
    store = context.store
    deployments, studies = store.deployments.find(device=name), store.studies.find(device=name)
    wanted = {d.variant for d in deployments}
    every = (v for job in store.jobs.find() for v in job.variants) if wanted else ()
    names = {v.bundle.variant: v.name for v in every if v.bundle.variant in wanted}
    return history.of(
        history.Records(
            deployments=deployments,
            studies=studies,
            triggers=store.triggers.find(device=name),
            tickets=store.tickets.find(device=name),
            notes=store.notes.find(device=name),
            audit=store.audit.find(subject=name),
            names=names,
        )
    )


def take_in(
    context: Context,
    devices: Sequence[DeviceLine],
    groups: Sequence[GroupLine],
    *,
    dry_run: bool = False,
) -> Imported:
    """Make labels, notes and groups as the lines say; all of it, or nothing where one is wrong.

    A device's labels become those of its line. A note that is there (same moment, same text) is
    not doubled. Devices that are not here are named and passed over.

    Raises:
        UserError: a label, note or expression cannot be one.
    """
    for line in devices:
        check_labels(line.labels)
        for written in line.notes:
            _check_written(context, written)
    for group in groups:
        grouping.checked(context, group.where)
    here = {line.device: context.store.devices.get(line.device) for line in devices}
    labelled, notes = [], 0
    with context.store.transaction():
        for line in devices:
            device = here[line.device]
            if device is None:
                continue
            if dict(line.labels) != dict(device.labels):
                labelled.append(line.device)
                if not dry_run:
                    _labelled(context, device, line.labels)
            notes += _take_notes(context, line, dry_run=dry_run)
        changed = [g.group for g in groups if _take_group(context, g, dry_run=dry_run)]
        if not dry_run:
            details = {"labelled": str(len(labelled)), "notes": str(notes)}
            context.record("operator", "imported", "fleet", details)
    return Imported(
        labelled=tuple(labelled), notes=notes, groups=tuple(changed),
        unknown=tuple(name for name, device in here.items() if device is None),
    )  # fmt: skip


def _take_notes(context: Context, line: DeviceLine, *, dry_run: bool) -> int:
    known = {(n.at, n.text) for n in context.store.notes.find(device=line.device)}
    fresh = [n for n in line.notes if (n.at, n.text.strip()) not in known]
    for written in () if dry_run else fresh:
        context.store.notes.add(
            Note(
                id=context.new_id(), device=line.device, at=written.at, author=written.author,
                text=written.text.strip(),
            )
        )  # fmt: skip
    return len(fresh)


def _take_group(context: Context, line: GroupLine, *, dry_run: bool) -> bool:
    known = context.store.groups.get(line.group)
    if known is not None and known.where == line.where.strip():
        return False
    if not dry_run:
        try:
            grouping.create(context, line.group, line.where)
        except Conflict:
            grouping.change(context, line.group, line.where)
    return True


def _device(context: Context, name: str) -> fleet.Device:
    device = context.store.devices.get(name)
    if device is None:
        raise NotFound(f"no device is named '{name}'; see: fitment device list --all")
    return device
