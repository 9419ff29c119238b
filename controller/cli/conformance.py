"""``fitment conformance``: does an agent, ours or another, keep the wire's contract?"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.common import Json, print_json, print_table
from fitment.core import plain

_ENROLL_HELP = (
    "The command that enrols the agent and then ends; {controller} {token} {device} {folder}"
    " {python} are filled in. Default: this machine's fitment-agent."
)
_RUN_HELP = "The command that runs it until SIGTERM; {folder} {python} are filled in."


def conformance(
    *,
    link: Annotated[str, typer.Option(help="mqtt (needs mosquitto here) or grpc.")] = "grpc",
    enroll: Annotated[str, typer.Option(help=_ENROLL_HELP, show_default=False)] = "",
    run: Annotated[str, typer.Option(help=_RUN_HELP, show_default=False)] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="A check's id, or the first part of ids; repeatable.")
    ] = None,
    within: Annotated[
        float, typer.Option(help="Seconds for whatever must happen sooner or later.", min=1.0)
    ] = 60.0,
    folder: Annotated[
        Path | None, typer.Option(help="Keep what the run leaves there: the agent's data and log.")
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Show the checks, run none.")] = False,
    as_json: Json = False,
) -> None:
    """Act as a controller and check an agent over the wire, rule by rule (protos/WIRE.md).

    Exit code 0 when every check that was asked for was run and passed, 1 otherwise.
    """
    from controller.conformance import run as running
    from controller.conformance.case import Setup
    from controller.conformance.subject import Commands

    logging.getLogger("controller").setLevel(logging.ERROR)  # what is cut is cut on purpose
    checks = running.choose(only or [])
    if list_checks:
        _list(checks, as_json=as_json)
        return
    given = {name: value for name, value in (("enroll", enroll), ("run", run)) if value}
    with tempfile.TemporaryDirectory(prefix="fitment-conformance-") as temporary:
        setup = Setup(
            commands=Commands(**given), folder=(folder or Path(temporary)).absolute(), link=link,
            within_s=within,
        )  # fmt: skip
        report = running.run(setup, checks, (lambda _: None) if as_json else _tell)
    if as_json:
        print_json({"passed": report.passed, **_plain(report)})
    else:
        _summary(report)
    if not report.passed:
        raise typer.Exit(1)


def _plain(report: Any) -> dict[str, Any]:
    shown: dict[str, Any] = plain.to_plain(report)
    return shown


def _list(checks: Any, *, as_json: bool) -> None:
    from controller.conformance.spec import REFERENCE

    if as_json:
        print_json([{"id": c.id, "says": c.says, "reference": REFERENCE} for c in checks])
        return
    print_table(("ID", "RULE"), [(check.id, check.says) for check in checks], empty="no check")


def _tell(result: Any) -> None:
    print(f"{result.verdict.value:<8} {result.id:<22} {result.evidence}", flush=True)


def _summary(report: Any) -> None:
    from controller.conformance.spec import Verdict

    counted = ", ".join(f"{report.count(verdict)} {verdict.value}" for verdict in Verdict)
    print(f"\n{counted} of {len(report.results)}, over {report.link}")
    for name, why in report.unchecked.items():
        print(f"never checked: {name}, {why}")
