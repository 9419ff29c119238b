"""``fitment device history``, ``note``, ``label``, ``export``, ``import``: what operators keep."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    bar,
    connect,
    counted,
    pairs,
    print_json,
    print_table,
    when,
)
from controller.cli.completing import complete_devices, complete_groups
from controller.domain.history import Event, Kind
from controller.errors import UserError
from fitment.core import plain

Device = Annotated[str, typer.Argument(autocompletion=complete_devices)]
_AT_ONCE_BYTES = 128 * 1024
"""Of lines in one request; the controller takes twice as much."""


def add_to(app: typer.Typer) -> None:
    """Put the commands among those of devices."""
    app.command("history")(show_history)
    app.command("note")(write_note)
    app.command("label")(label_device)
    app.command("export")(export_devices)
    app.command("import")(import_devices)


def show_history(
    name: Device,
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest entries.")] = 50,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only of this kind; repeatable.")] = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """What is on record of a device in one list, newest first: what it was, ran, measured."""
    with connect(server, data_dir) as client:
        found = client.history(name, 1000 if kind else limit)
    shown = [event for event in found if not kind or event.kind in kind][:limit]
    if as_json:
        print_json(shown)
        return
    rows = [(when(e.at), e.kind.value, e.what, _details(e)) for e in shown]
    print_table(("at", "kind", "what", "more"), rows, empty=f"Nothing is on record of {name}.")


def write_note(
    name: Device,
    text: Annotated[str, typer.Argument(help="What is to be remembered of it.")],
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Write something about a device; it stays in its history, with your name and the time."""
    with connect(server, data_dir) as client:
        made = client.note(name, text)
    if as_json:
        print_json(made)
    else:
        print(f"Noted about {name} by {made.author}.")


def label_device(
    name: Device,
    labels: Annotated[
        list[str], typer.Argument(help="KEY=VALUE to give one, KEY- to take one away.")
    ],
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Give a device labels, or take them away: fitment device label edge-1 site=lab old-."""
    taken = [text[:-1] for text in labels if text.endswith("-") and "=" not in text]
    given = pairs([t for t in labels if not (t.endswith("-") and "=" not in t)], "label")
    with connect(server, data_dir) as client:
        device = client.label(name, given, taken)
    if as_json:
        print_json(device)
    else:
        shown = ", ".join(f"{key}={value}" for key, value in device.labels.items())
        print(f"{name}: {shown or 'no label'}")


def export_devices(
    *,
    out: Annotated[Path | None, typer.Option(help="A file; without: standard output.")] = None,
    where: Annotated[str, typer.Option(help="Only devices that match an expression.")] = "",
    group: Annotated[
        str, typer.Option(help="Only devices of a group.", autocompletion=complete_groups)
    ] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Labels and notes of devices, and all groups, as JSON lines: what operators own.

    With --json it is one list, which import does not read.
    """
    from controller.domain.belonging import DeviceLine, GroupLine, NoteLine

    with connect(server, data_dir) as client:
        devices, notes, groups = client.devices(where, group), client.notes(), client.groups()
    written: dict[str, list[NoteLine]] = {}
    for note in notes:
        line = NoteLine(at=note.at, author=note.author, text=note.text)
        written.setdefault(note.device, []).append(line)
    lines: list[object] = [GroupLine(group=g.name, where=g.where) for g in groups]
    lines += [
        DeviceLine(device=d.name, labels=d.labels, notes=tuple(written.get(d.name, ())))
        for d in devices
        if not d.decommissioned_at
    ]
    if as_json and out is None:
        print_json(lines)
        return
    text = "".join(json.dumps(plain.to_plain(line), ensure_ascii=False) + "\n" for line in lines)
    if out is None:
        sys.stdout.write(text)
        return
    out.write_text(text)
    if as_json:
        print_json({"path": str(out), "lines": len(lines)})
    else:
        print(f"{len(lines)} lines are in {out}.")


def import_devices(
    file: Annotated[
        Path, typer.Argument(help="JSON lines, as export writes them; -: standard input.")
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change.")] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Make labels, notes and groups as the lines say; a device's labels become its line's."""
    lines = _read(file)
    totals: dict[str, Any] = {"labelled": [], "notes": 0, "groups": [], "unknown": []}
    with connect(server, data_dir) as client, bar() as told:
        done = 0
        for some in _parcels(lines):
            told(f"{done} of {len(lines)} lines", done / len(lines))
            devices = [line for _, line in some if hasattr(line, "device")]
            groups = [line for _, line in some if hasattr(line, "group")]
            answer = client.take_in(devices, groups, dry_run=dry_run)
            totals["labelled"] += answer.labelled
            totals["groups"] += answer.groups
            totals["unknown"] += answer.unknown
            totals["notes"] += answer.notes
            done += len(some)
    if as_json:
        print_json({**totals, "dry_run": dry_run})
        return
    would = "would be " if dry_run else ""
    print(
        f"{counted(len(totals['labelled']), 'device')} {would}labelled,"
        f" {counted(totals['notes'], 'note')} {would}added,"
        f" {counted(len(totals['groups']), 'group')} {would}made or changed."
    )
    if totals["unknown"]:
        print(f"Not here, and passed over: {', '.join(totals['unknown'])}")


def _read(file: Path) -> list[tuple[int, Any]]:
    """Lines with their sizes, all of them read before anything is asked.

    Raises:
        UserError: the file cannot be read, or a line is none; it says which.
    """
    from controller.domain.belonging import DeviceLine, GroupLine

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            kind = GroupLine if isinstance(value, dict) and "group" in value else DeviceLine
            found.append((len(line.encode()), plain.from_plain(kind, value)))
        except ValueError as error:  # no JSON, or another shape
            raise UserError(f"{file}, line {number}: {error}; nothing was changed") from error
    if not found:
        raise UserError(f"{file} has no line; write one with: fitment device export")
    return found


def _parcels(lines: Sequence[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """Groups first, so that a wrong expression stops everything; then as many as go at once."""
    ordered = sorted(lines, key=lambda pair: not hasattr(pair[1], "group"))
    some: list[tuple[int, Any]] = []
    for pair in ordered:
        if some and sum(size for size, _ in some) + pair[0] > _AT_ONCE_BYTES:
            yield some
            some = []
        some.append(pair)
    yield some


def _details(event: Event) -> str:
    shown = {**({"by": event.actor} if event.actor else {}), **event.details}
    return ", ".join(f"{key}={value}" for key, value in shown.items() if value)
