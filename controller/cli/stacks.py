"""``fitment stack``: prepare a fleet for an operating system or runtime before it comes."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    connect,
    print_facts,
    print_json,
    print_table,
    when,
)
from controller.domain.stacks import StackAnnouncement, Standing
from controller.errors import UserError
from controller.gateway.views import StackView

app = typer.Typer(
    no_args_is_help=True,
    help="Stacks (OS, driver, runtime) that are to come: fitted, tried and shipped before.",
)
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="What it will bring, to know it by: onnxruntime=1.25.0."),
]
Facts = Annotated[
    list[str] | None,
    typer.Option("--fact", help="The same for any fact of a stack: runtime.onnx.package=…"),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Only this model; else all that devices run.")
]


@app.command("announce")
def announce_stack(  # noqa: PLR0913 - one parameter an option
    name: Annotated[str, typer.Argument(help="What people call it, such as jetpack-7.1.")],
    *,
    profile: Annotated[str, typer.Option(help="Class of devices that it is to come to.")] = "",
    device: Annotated[str, typer.Option(help="A lab device or canary that has it already.")] = "",
    runtime: Runtimes = None,
    fact: Facts = None,
    model: Models = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Begin to prepare for a stack.

    With --device it begins at once; with --runtime or --fact it waits until a device of the
    profile reports such a stack, for example a canary that you upgrade.
    """
    facts = {}
    for text in fact or ():
        key, mark, value = text.partition("=")
        if not (key and mark):
            raise UserError(f"'{text}' is no fact: write NAME=VALUE, as in: fitment device show")
        facts[key] = value
    with connect(server, data_dir) as client:
        found = client.announce_stack(
            name, profile=profile, device=device, runtimes=runtime or [], facts=facts,
            slots=model or [],
        )  # fmt: skip
    _answer(found, as_json=as_json)


@app.command("list")
def list_stacks(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Ended ones, too.")] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Announced stacks, and what each waits for."""
    with connect(server, data_dir) as client:
        found = client.stacks(state="all" if everything else "open")
    if as_json:
        print_json(found)
        return
    rows = [
        (s.name, s.profile, s.device, _word(s), s.result or s.waits, when(s.created_at))
        for s in found
    ]
    columns = ("stack", "profile", "device that has it", "state", "waits for, or result", "since")
    print_table(columns, rows, empty="No stack is announced: fitment stack announce NAME …")


@app.command("show")
def show_stack(
    stack: Annotated[str, typer.Argument(help="Name or id.")],
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False,
) -> None:  # fmt: skip
    """One stack: what was found for it, and which devices are ready, or not and why."""
    with connect(server, data_dir) as client:
        found = client.stack(stack)
    _answer(found, as_json=as_json)


@app.command("withdraw")
def withdraw_stack(
    stack: Annotated[str, typer.Argument(help="Name or id.")],
    reason: Annotated[str, typer.Argument(help="Why it is not wanted any more.")],
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False,
) -> None:  # fmt: skip
    """Take one back. What devices hold for it stays there until their next release."""
    with connect(server, data_dir) as client:
        found = client.withdraw_stack(stack, reason)
    _answer(found, as_json=as_json)


def _word(stack: StackAnnouncement) -> str:
    return stack.state.value.replace("_", " ")


def _answer(view: StackView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    found = view.stack
    known = found.stack_facts or found.facts
    counted = {each: sum(d.standing is each for d in view.devices) for each in Standing}
    print_facts(
        {
            "stack": f"{found.name} ({found.id})",
            "profile": found.profile,
            "state": _word(found),
            "waits for": found.waits,
            "result": found.result,
            "device that has it": found.device,
            "facts": ", ".join(f"{key} {value}" for key, value in sorted(known.items())),
            **{f"{slot} will run": _part(found, slot) for slot in sorted(found.parts)},
            "devices": ", ".join(
                f"{number} {each.value.replace('_', ' ')}" for each, number in counted.items()
            ),
            "announced": when(found.created_at),
            "ended": when(found.closed_at) if found.closed_at else "",
        }
    )
    rows = [
        (d.device, d.standing.value.replace("_", " "), d.reason)
        for d in sorted(view.devices, key=lambda d: list(Standing).index(d.standing))
    ]
    print_table(("device", "is", "because"), rows, empty="No other device runs anything yet.")


def _part(found: StackAnnouncement, slot: str) -> str:
    part = found.parts[slot]
    return "; ".join(text for text in (part.name, part.tested or part.reason) if text)
