"""``fitment telemetry``: what devices sent, as a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    connect,
    duration_s,
    print_json,
)

app = typer.Typer(no_args_is_help=True, help="What devices sent, as a file.")


@app.callback()
def telemetry() -> None:
    """What devices sent, as a file."""


@app.command("export")
def export(
    *,
    out: Annotated[Path, typer.Option(help="The file; it appears when it is whole.")],
    form: Annotated[
        str, typer.Option("--format", help="parquet, csv or jsonl; else by the file's name.")
    ] = "",
    since: Annotated[str, typer.Option(help="How far back: 30m, 12h, 7d.")] = "1d",
    device: Annotated[str, typer.Option(help="Of one device.")] = "",
    column: Annotated[
        list[str] | None, typer.Option(help="A quantity; repeatable. Else all that there are.")
    ] = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Write samples as they were sent: one row a sample, null where no sensor said anything.

    Samples are kept for a week by default. Parquet needs pyarrow where the controller runs.
    """
    begin = time.time() - duration_s(since)
    with connect(server, data_dir) as client:
        size = client.export(out, form, since=begin, device=device, columns=column or ())
    if as_json:
        print_json({"file": str(out), "bytes": size})
        return
    print(f"{out}: {size / 1000:.1f} kB")
