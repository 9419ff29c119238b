"""``fitment demo``: the whole loop on this machine, with three devices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.common import Json
from controller.config import LinkChoice
from controller.errors import FitmentError

if TYPE_CHECKING:
    from rich.console import Console

    from controller.demo.report import StepTime

DEFAULT_OUT = Path("demo-out")


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Report, logs and data go there.")] = DEFAULT_OUT,
    link: Annotated[LinkChoice, typer.Option(help="How small messages travel.")] = LinkChoice.AUTO,
    as_json: Json = False,
) -> None:
    """Fit a model to three devices, roll it out, change one, and see it fitted again.

    Everything is real: a controller and three agents as processes of their own, on this machine.
    """
    from rich.console import Console

    from controller.demo import story

    report = story.run(out, link.value, Terminal(Console(stderr=True, highlight=False)))
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(report, out)
    if report["failed"]:
        raise FitmentError(f"{report['failed']} (logs: {out / 'logs'})")


class Terminal:
    """Steps as lines, with a bar and what goes on below them where there is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def step(self, number: int, of: int, title: str) -> Iterator[Callable[[str], None]]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn())
        if not self._console.is_terminal:
            self._console.print(f"… {title}")
            yield lambda _text: None
            return
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(title, total=of, completed=number - 1)
            yield lambda text: progress.update(task, description=f"{title}: {text}")

    def done(self, step: StepTime) -> None:
        from rich.text import Text

        line = Text(f"{step.seconds:6.1f} s  {step.title}: {step.result}")
        self._console.print(line, soft_wrap=True)


def show(report: dict[str, Any], out: Path) -> None:
    """The report for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide = Console()
    console = wide if wide.is_terminal else Console(width=170)
    columns = ("device", "", "variant", "runtime", "accuracy", "agrees", "kB (wire)",
               "p50/p95 ms", "verdict", "energy")  # fmt: skip
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for device in report["devices"]:
        for moment in ("before", "after"):
            if device[moment] is not None:
                table.add_row(*(Text(cell) for cell in _row(device, moment, report)))
    console.print(table)
    for device in report["devices"]:
        for line in _words(device):
            console.print(Text(line), soft_wrap=True)
    for line in _energy(report):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(_end(report, out)), soft_wrap=True)


def _row(device: dict[str, Any], moment: str, report: dict[str, Any]) -> tuple[str, ...]:
    state = device[moment]
    measured, energy = state["measured"] or {}, state["energy"]
    drop = 100 * (state["accuracy"] - report["fp32_accuracy"])
    marks = ("changed" * (moment == "after"), "emulated" * bool(device["emulated"]))
    return (
        device["name"] if moment == "before" else "",
        " ".join(mark for mark in marks if mark),
        state["variant"],
        state["runtime"],
        f"{100 * state['accuracy']:.2f} % ({drop:+.2f})",
        f"{100 * state['agreement']:.1f} %",
        f"{state['file_bytes'] / 1000:.0f} ({state['wire_bytes'] / 1000:.0f})",
        f"{_number(measured.get('p50_ms'))}/{_number(measured.get('p95_ms'))}",
        measured.get("verdict", "-"),
        f"{energy['value_mj']:.3f} mJ" if energy["value_mj"] is not None else energy["status"],
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _words(device: dict[str, Any]) -> Iterator[str]:
    """Why it is so, one line each."""
    name = device["name"]
    if device["profile"]:
        yield f"{name}: {device['profile']}, because {device['profile_reason']}"
    for moment in ("before", "after"):
        state = device[moment]
        if state is not None:
            yield f"  {state['variant']}: {state['reason']}"
            if state["scheme_reason"]:
                yield f"  {state['scheme']}: {state['scheme_reason']}"
        if moment == "before" and device["trigger"]:
            yield f"  {device['trigger']}"
    calibration = device["calibration"]
    if calibration is not None:
        yield f"  calibrated on {calibration['samples']} samples: {calibration['reason']}"
        found = calibration["accuracy_on_its_sensor"]
        if found:
            yield (
                f"  on its sensor: {100 * found['as_shipped']:.2f} % as shipped,"
                f" {100 * found['calibrated']:.2f} % calibrated"
                f" ({100 * found['usual_sensor']:.2f} % on the usual one,"
                f" {found['images']} images)"
            )


def _energy(report: dict[str, Any]) -> Iterator[str]:
    """Why there is no energy, once for all devices that say the same."""
    missing: dict[str, list[str]] = {}
    for device in report["devices"]:
        state = device["after"] or device["before"]
        if state is not None and state["energy"]["value_mj"] is None:
            missing.setdefault(state["energy"]["reason"], []).append(device["name"])
    for reason, names in missing.items():
        yield f"energy unavailable on {', '.join(names)}: {reason}"


def _end(report: dict[str, Any], out: Path) -> str:
    fp32 = "" if report["fp32_accuracy"] is None else (
        f"fp32: {100 * report['fp32_accuracy']:.2f} %, {report['fp32_bytes'] / 1000:.0f} kB. "
    )  # fmt: skip
    changed = report["change_to_commit_s"]
    answered = f"The change was answered in {changed:.0f} s. " if changed else ""
    return f"{fp32}{answered}All of it took {report['seconds']:.0f} s; see {out / 'report.json'}."
