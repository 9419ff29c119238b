"""What the commands share: options, the way to the controller, tables, times."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.errors import UserError
from fitment.core import plain

if TYPE_CHECKING:
    from controller.client import Client

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
Server = Annotated[
    str,
    typer.Option(
        "--server", envvar="FITMENT_SERVER", help="The controller's URL.", show_default=False
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="FITMENT_DATA_DIR",
        help="The controller's data directory; tells its address and the operator's token.",
    ),
]
DEFAULT_DATA_DIR = Path("fitment-data")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?\Z")
_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal; nothing where nobody watches: it would leave an empty line there."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda what, done: progress.update(task, description=what, completed=done)


def connect(server: str, data_dir: Path) -> Client:
    """The controller at ``server``, or the one that runs on ``data_dir``.

    Raises:
        UserError: there is no address or no token; the message says where they come from.
    """
    from controller.client import Client

    return Client.of(server, data_dir=data_dir)


def print_json(value: object) -> None:
    """Records and containers of them, as JSON."""
    print(json.dumps(plain.to_plain(value), indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table for people, or one line when there is nothing to show."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    listed = list(rows)
    if not listed:
        print(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in listed:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if _is_terminal() else 160).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, aligned; empty values are left out."""
    shown = {name: value for name, value in facts.items() if value}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")


def counted(count: int, what: str) -> str:
    """``1 device``, ``2 devices``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def when(at: float) -> str:
    """A moment in local time, or a dash."""
    if not at:
        return "-"
    moment = dt.datetime.fromtimestamp(at, tz=dt.timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def ago(at: float) -> str:
    """How long ago, in one unit."""
    if not at:
        return "never"
    passed = max(0.0, time.time() - at)
    for unit, seconds in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if passed >= seconds:
            return f"{passed / seconds:.0f}{unit} ago"
    return f"{passed:.0f}s ago"


def duration_s(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``2h`` or ``7d`` in seconds.

    Raises:
        UserError: it is none of these.
    """
    matched = _DURATION.match(text.strip())
    if matched is None:
        raise UserError(f"'{text}' is no duration; write 90s, 15m, 2h or 7d")
    return float(matched[1]) * _UNIT_S[matched[2] or ""]


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``["site=lab"]`` as a mapping.

    Raises:
        UserError: one is not KEY=VALUE.
    """
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UserError(f"{option} takes KEY=VALUE, not '{text}'")
        found[key] = value
    return found


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
