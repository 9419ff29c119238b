"""``fitment device pending``, ``approve`` and ``reject``: devices that ask without a token."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    ago,
    connect,
    pairs,
    print_json,
    print_table,
)
from controller.cli.completing import complete_applicants
from controller.domain.belonging import Applicant
from controller.errors import NotFound, UserError

Name = Annotated[str, typer.Argument(autocompletion=complete_applicants)]


def add_to(app: typer.Typer) -> None:
    """Put the commands among those of devices."""
    app.command("pending")(list_pending)
    app.command("approve")(approve_device)
    app.command("reject")(reject_device)


def list_pending(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """Devices that ask to be let in, each with the code that it shows, too."""
    with connect(server, data_dir) as client:
        found = client.applicants()
    if as_json:
        print_json(found)
        return
    rows = [(a.name, a.code, _state(a), ago(a.asked_at), ago(a.seen_at)) for a in found]
    empty = (
        "No device asks to be let in. On one: fitment-agent enroll --controller HOST:PORT"
        " (the controller's settings need enrolment_by_approval = true)"
    )
    print_table(("device", "code", "state", "asked", "last"), rows, empty=empty)


def approve_device(
    name: Name,
    *,
    code: Annotated[
        str, typer.Option(help="The code that the device shows; without, you are asked.")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the device; repeatable.")
    ] = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Let a device in, and only the key whose code was compared."""
    labels = pairs(label or [], "--label")
    with connect(server, data_dir) as client:
        if not code:
            code = _compared(client.applicants(), name, asks=not as_json)
        approved = client.approve_applicant(name, code, labels)
    if as_json:
        print_json(approved)
    else:
        print(f"{name} is let in; it has its certificate when it next asks, within a minute.")


def reject_device(
    name: Name,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Refuse a device that asks."""
    with connect(server, data_dir) as client:
        rejected = client.reject_applicant(name)
    if as_json:
        print_json(rejected)
    else:
        print(f"{name} is refused.")


def _compared(found: tuple[Applicant, ...], name: str, *, asks: bool) -> str:
    """The code, once somebody has said that the device shows it.

    Raises:
        UserError: nobody did.
        NotFound: no device of that name waits.
    """
    known = next((one for one in found if one.name == name), None)
    if known is None:
        raise NotFound(f"no device waits under the name '{name}'; see: fitment device pending")
    if not asks or not typer.confirm(f"Does {name} show {known.code}?"):
        raise UserError(
            f"{name} was not let in: compare the codes first, then give the device's with --code"
        )
    return known.code


def _state(one: Applicant) -> str:
    if one.waits:
        return "waits"
    return "let in" if one.approved_at else "refused"
