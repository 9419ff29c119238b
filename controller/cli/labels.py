"""``fitment label``: what became known later of the answers that devices gave."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    bar,
    connect,
    print_json,
    print_table,
)
from controller.domain.field import Count
from controller.domain.labels import Posted
from controller.errors import UserError

AT_ONCE = 500
"""Labels in one request: a body has 256 KiB at most."""
HELD_MOST = 20_000
"""Lines that wait until there are more of their device."""
JUDGED = ("labels", "right", "accuracy", "95 %", "must pass", "corrections")

app = typer.Typer(no_args_is_help=True, help="Labels from the field, late as they come.")


@app.command("post")
def post_labels(
    file: Annotated[Path, typer.Argument(help="JSON lines; '-' is the standard input.")],
    *,
    device: Annotated[str, typer.Option(help="Of lines that name none.")] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Say of answers what they should have been: a JSON object a line.

    Each has "device", "time" (of the answer: seconds or ISO 8601), and one of "label" (with
    "predicted"), "correct" (true or false) or "correction"; and may have "release" or "variant"
    (else what served then), "slice", "must_pass", and "id". A line that comes again changes
    nothing; one with a known id and time takes the former's place.
    """
    whole = Posted()
    with connect(server, data_dir) as client, _opened(file) as stream, bar() as show:
        done = 0
        for name, lines in _batches(stream, device):
            whole = _added(whole, client.post_labels(name, lines))
            done += len(lines)
            show(f"{done} labels", 0.0)
    if as_json:
        print_json(whole)
        return
    print(f"{whole.taken} taken, {whole.changed} changed, {whole.known} known already")
    for rollout in whole.fell:
        print(
            f"rollout {rollout} is over, and they speak against it: fitment rollout field {rollout}"
        )


@app.command("show")
def show_labels(
    *,
    device: Annotated[str, typer.Option(help="Of this device.")] = "",
    release: Annotated[str, typer.Option(help="Of this release.")] = "",
    variant: Annotated[str, typer.Option(help="Of this variant: a whole digest.")] = "",
    by: Annotated[str, typer.Option(help="device, release, variant or slice.")] = "variant",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Accuracy in the field, with intervals, of a device, a release or a variant."""
    with connect(server, data_dir) as client:
        found = client.field(by, device=device, release=release, variant=variant)
    if as_json:
        print_json(found)
        return
    rows = [
        (row.name, *judged(
            Count(count=row.count, right=row.right, must=row.must, must_wrong=row.must_wrong,
                  corrections=row.corrections), row.low, row.high))
        for row in found.rows
    ]  # fmt: skip
    print_table((by, *JUDGED), rows, empty="No label of these; see: fitment label post --help")


def judged(counted: Count, low: float, high: float) -> tuple[str, ...]:
    """The cells of `JUDGED`."""
    share = counted.accuracy
    return (
        str(counted.count), str(counted.right), "-" if share is None else f"{share:.2%}",
        "-" if share is None else f"{low:.2%} to {high:.2%}",
        f"{counted.must - counted.must_wrong} of {counted.must}" if counted.must else "-",
        str(counted.corrections) if counted.corrections else "-",
    )  # fmt: skip


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    try:
        stream = file.open(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield stream


def _batches(stream: TextIO, device: str) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Lines of one device together, so many at once; a device's lines need not be in a row."""
    waiting: dict[str, list[Mapping[str, Any]]] = {}
    held = 0
    for number, text in enumerate(stream, 1):
        if not text.strip():
            continue
        name, line = _line(number, text, device)
        waiting.setdefault(name, []).append(line)
        held += 1
        if len(waiting[name]) >= AT_ONCE:
            held -= len(waiting[name])
            yield name, waiting.pop(name)
        if held >= HELD_MOST:
            yield from waiting.items()
            waiting, held = {}, 0
    yield from waiting.items()


def _line(number: int, text: str, device: str) -> tuple[str, Mapping[str, Any]]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise UserError(f"line {number} is no JSON: {error}") from error
    if not isinstance(line, dict):
        raise UserError(f"line {number} is no JSON object")
    name = line.get("device", device)
    if not isinstance(name, str) or not name:
        raise UserError(f'line {number} names no device: add "device", or give --device')
    return name, line


def _added(one: Posted, other: Posted) -> Posted:
    return Posted(
        taken=one.taken + other.taken, changed=one.changed + other.changed,
        known=one.known + other.known, fell=(*one.fell, *other.fell),
    )  # fmt: skip
