"""``fitment fit``: make the variants of a model for one kind of device, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from controller.cli.profiles import Json
from controller.errors import UserError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def fit(
    workload: Annotated[str, typer.Argument(help="A workload file, or the name of an example.")],
    *,
    profile: Annotated[str, typer.Option(help="The kind of device; see: fitment profile list.")],
    out: Annotated[Path, typer.Option(help="Folder for the artifacts and variants.json.")],
    thorough: Annotated[
        bool, typer.Option("--thorough/--quick", help="Try more recipes, or the usual few.")
    ] = False,
    budget: Annotated[
        list[str] | None, typer.Option(help="A limit, NAME=VALUE; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same variants.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit WORKLOAD to a profile without a fleet, with this machine as the device."""
    from controller.compress.local import LocalRequest, fit_locally

    request = LocalRequest(
        workload=find(workload), profile=profile, out=out, seed=seed, budget=limits(budget or []),
        effort="thorough" if thorough else "quick",
    )  # fmt: skip
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        report = fit_locally(
            request,
            lambda step, done: progress.update(task, description=step, completed=done),
        )
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report, out)


def find(workload: str) -> Path:
    """The workload file of a path, or of an example's name.

    Raises:
        UserError: it is neither.
    """
    path = Path(workload)
    if path.exists():
        return path
    example = EXAMPLES / workload / "workload.py"
    if example.exists():
        return example
    known = ", ".join(sorted(p.parent.name for p in EXAMPLES.glob("*/workload.py")))
    raise UserError(f"'{workload}' is neither a file nor one of the examples: {known}")


def limits(texts: list[str]) -> dict[str, float]:
    """``["file_bytes_max=90000"]`` as numbers by name.

    Raises:
        UserError: one is not NAME=NUMBER.
    """
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UserError(f"--budget takes NAME=NUMBER, not '{text}'") from error
        if not separator or not name:
            raise UserError(f"--budget takes NAME=NUMBER, not '{text}'")
    whole = ("file_bytes_max", "wire_bytes_max", "peak_memory_max_bytes")
    return {name: int(v) if name in whole else v for name, v in found.items()}


def _show(report: dict[str, Any], out: Path) -> None:
    console = Console()
    table = Table(
        "variant", "runtime", "accuracy", "agreement", "kB", "wire kB", "p50 ms", "verdict"
    )
    for row in report["variants"]:
        latency = row["latency"]
        value = latency["value"]
        table.add_row(
            f"[bold]{row['name']}[/] ←" if row["chosen"] else row["name"],
            row["runtime"],
            "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %",
            f"{100 * row['agreement']:.2f} %",
            f"{row['file_bytes'] / 1000:.0f}",
            f"{row['wire_bytes'] / 1000:.0f}",
            "-" if value is None else f"{value:.3f}",
            latency["verdict"] or latency["reason"],
        )
    console.print(table)
    chosen = [row for row in report["variants"] if row["chosen"]]
    console.print(chosen[0]["reason"] if chosen else f"Nothing fits: {report['closest']}")
    for name, why in report["failed"].items():
        console.print(f"not made: {name}: {why.splitlines()[0]}")
    console.print(f"Artifacts and variants.json are in {out}.")
