"""``fitment ticket``: devices that do worse than their kind."""

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
from controller.domain.tickets import NO_CAUSE, Ticket
from fitment.core import digest

app = typer.Typer(no_args_is_help=True, help="Devices that do worse than their kind.")


@app.command("list")
def list_tickets(
    *,
    device: Annotated[str, typer.Option(help="Only this device's.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Closed ones, too.")] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Tickets that are not closed."""
    with connect(server, data_dir) as client:
        found = client.tickets(device=device, state="" if everything else "open")
    if as_json:
        print_json(found)
        return
    rows = [
        (t.id, t.device, t.state.value, t.summary, _causes(t), when(t.opened_at)) for t in found
    ]
    columns = ("ticket", "device", "state", "what", "probable cause", "since")
    print_table(columns, rows, empty="No device does worse than its kind.")


@app.command("show")
def show_ticket(
    ticket: str, *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """One ticket with its numbers."""
    with connect(server, data_dir) as client:
        found = client.ticket(ticket)
    _answer(found, as_json=as_json)


@app.command("acknowledge")
def acknowledge_ticket(
    ticket: str, *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """Say that somebody looks at it."""
    with connect(server, data_dir) as client:
        found = client.change_ticket(ticket, "acknowledge")
    _answer(found, as_json=as_json)


@app.command("close")
def close_ticket(
    ticket: str,
    *,
    result: Annotated[str, typer.Option(help="What was done about it.")] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """End it. If the device is no better a day later, another one is opened."""
    with connect(server, data_dir) as client:
        found = client.change_ticket(ticket, "close", result=result)
    _answer(found, as_json=as_json)


def _causes(ticket: Ticket) -> str:
    return "; ".join(ticket.causes) or NO_CAUSE


def _answer(ticket: Ticket, *, as_json: bool) -> None:
    if as_json:
        print_json(ticket)
        return
    print_facts(
        {
            "ticket": ticket.id,
            "device": ticket.device,
            "state": ticket.state.value,
            "what": ticket.summary,
            "probable cause": _causes(ticket),
            "runs": f"{digest.short(ticket.variant)} in {ticket.slot}",
            "cohort": ticket.cohort.key,
            "numbers": ", ".join(f"{k} {v:.4g}" for k, v in sorted(ticket.numbers.items())),
            "opened": when(ticket.opened_at),
            "numbers of": when(ticket.updated_at),
            "acknowledged by": ticket.acknowledged_by,
            "closed": when(ticket.closed_at) if ticket.closed_at else "",
            "result": ticket.result,
        }
    )
