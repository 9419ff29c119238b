"""``fitment fit``: make the variants of a model, on this machine or for the fleet.

The two are told apart by ``--profile`` and ``--out``: who names them fits here, without a
controller.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.common import DEFAULT_DATA_DIR, DataDir, Json, Server, bar, connect
from controller.cli.fleet_fit import answer, follow
from controller.domain.fleet import EXTRA_RUNGS
from controller.errors import FitError, UserError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def fit(  # noqa: PLR0913 - one parameter an option
    workload: Annotated[
        str, typer.Argument(help="A workload file or an example's name; or a registered model.")
    ],
    *,
    profile: Annotated[
        str, typer.Option(help="Fit here, for this kind of device; see: fitment profile list.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Fit here, and write artifacts and variants.json there.")
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough/--quick", help="Try more recipes, or the usual few.")
    ] = False,
    rungs: Annotated[
        list[str] | None,
        typer.Option(
            help="Also make variants of this kind, for lesser rungs of a release: slimmable"
            " (one network trained at several widths, takes some minutes); repeatable."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="A limit, NAME=VALUE; repeatable; fitting here only.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same variants; fitting here only.")] = 0,
    device: Annotated[str, typer.Option(help="Only this device's cohort of the fleet.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the fleet's fits.")
    ] = True,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Fit a workload on this machine (--profile and --out), or a registered model to the fleet."""
    effort, extra = "thorough" if thorough else "quick", tuple(rungs or ())
    _known(extra)
    if not profile and out is None:
        if budget:
            raise UserError("--budget goes with --profile and --out; the fleet has the model's own")
        if seed:
            raise UserError("--seed goes with --profile and --out; the fleet's take the usual one")
        with connect(server, data_dir) as client:
            jobs = client.start_fits(workload, device, effort, extra)
            jobs = follow(client, jobs) if wait else jobs
        answer(jobs, as_json=as_json)
        return
    if not profile or out is None:
        raise UserError("fitting on this machine needs both --profile and --out")
    if device or not wait:
        raise UserError("--device and --no-wait are for the fleet: leave out --profile and --out")
    local = Local(
        workload=workload, profile=profile, out=out, effort=effort, seed=seed, rungs=extra
    )
    _fit_here(local, limits(budget or []), as_json=as_json)


def _known(rungs: tuple[str, ...]) -> None:
    unknown = sorted(set(rungs) - set(EXTRA_RUNGS))
    if unknown:
        raise UserError(f"there are no rungs '{unknown[0]}', only: {', '.join(EXTRA_RUNGS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What to fit on this machine."""

    workload: str
    profile: str
    out: Path
    effort: str
    seed: int
    rungs: tuple[str, ...] = ()


def _fit_here(local: Local, budget: dict[str, float], *, as_json: bool) -> None:
    from controller.compress.local import LocalRequest, fit_locally

    request = LocalRequest(
        workload=find(local.workload), profile=local.profile, out=local.out, seed=local.seed,
        budget=budget, effort=local.effort, rungs=local.rungs,
    )  # fmt: skip
    with bar() as show:
        report = fit_locally(request, show)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report, local.out)
    if not report["chosen"]:
        raise FitError(
            f"{report['closest']}: raise that limit, or try --thorough; what was made, with its"
            f" evidence, is in {local.out}"
        )


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
        if not separator or not name or not 0 <= found[name] < math.inf:
            raise UserError(f"--budget takes NAME=NUMBER, with a number of 0 or more, not '{text}'")
    whole = ("file_bytes_max", "wire_bytes_max", "peak_memory_max_bytes")
    return {name: int(v) if name in whole else v for name, v in found.items()}


def _interval(bounds: list[float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.1f}-{100 * bounds[1]:.1f}"


def _show(report: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = (
        "",
        "variant",
        "runtime",
        "accuracy",
        "95 %",
        "agrees",
        "kB",
        "wire",
        "p50 ms",
        "verdict",
    )
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for row in report["variants"]:
        latency = row["latency"]
        value = latency["value"]
        table.add_row(
            "→" if row["chosen"] else "",
            f"[bold]{row['name']}[/]" if row["chosen"] else row["name"],
            row["runtime"],
            "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %",
            _interval(row["accuracy_interval"]),
            f"{100 * row['agreement']:.2f} %",
            f"{row['file_bytes'] / 1000:.0f}",
            f"{row['wire_bytes'] / 1000:.0f}",
            "-" if value is None else f"{value:.3f}",
            latency["verdict"] or latency["reason"],
        )
    console.print(table)
    chosen = [row for row in report["variants"] if row["chosen"]]
    if chosen:
        console.print(chosen[0]["reason"])
    for note in report["notes"]:
        console.print(f"note: {note}")
    for name, why in report["failed"].items():
        console.print(f"not made: {name}: {why.splitlines()[0]}")
    console.print(f"Artifacts and variants.json are in {out}; look at {out / 'report.html'}.")
