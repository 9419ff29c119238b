"""``fitment status``, ``trigger`` and ``audit``: what goes on, and what was decided."""

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
from controller.domain import fleet
from fitment.core import digest

LONG_NUMBER = 24
"""Digits beyond which a number is a serial: nobody reads those in a table."""

triggers = typer.Typer(no_args_is_help=True, help="Reasons to fit again.")


def status(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """The whole in one look."""
    with connect(server, data_dir) as client:
        found = client.status()
    if as_json:
        print_json(found)
        return
    print_facts(
        {
            "fitment": found.addresses.version,
            "operators": found.addresses.rest,
            "enrolment": found.addresses.enroll,
            "gateway": found.addresses.gateway,
            "link": found.link,
            "devices": f"{found.devices}, {found.online} online",
            "models": str(found.models),
            "fits running": str(found.jobs_active),
            "rollouts running": str(found.rollouts_active),
            "open triggers": str(found.triggers_open),
            "open tickets": str(found.tickets_open),
        }
    )
    for note in found.notes:
        print(f"note: {note}")


@triggers.command("list")
def list_triggers(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """All triggers, and what came of them."""
    with connect(server, data_dir) as client:
        found = client.triggers()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            t.id,
            when(t.created_at),
            t.kind.value,
            _devices(t),
            t.reason,
            t.result or t.waits or "open",
        )
        for t in found
    ]
    columns = ("trigger", "at", "kind", "device", "because", "result")
    print_table(columns, rows, empty="Nothing has asked for another fit.")


@triggers.command("close")
def close_trigger(
    trigger: str, reason: Annotated[str, typer.Argument(help="Why nobody wants what it asks for.")],
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False,
) -> None:  # fmt: skip
    """Refuse it: nothing is rolled out for it, and its cohort is free to ask for something else."""
    with connect(server, data_dir) as client:
        found = client.close_trigger(trigger, reason)
    if as_json:
        print_json(found)
        return
    print_facts({"trigger": found.id, "cohort": found.cohort.key, "result": found.result})


def _devices(trigger: fleet.Trigger) -> str:
    more = len(trigger.joined) - 1
    return f"{trigger.device} and {more} more" if more > 0 else trigger.device


def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Newest entries.")] = 50,
    action: Annotated[str, typer.Option(help="Only this action.")] = "",
    subject: Annotated[str, typer.Option(help="Only this device, release, rollout, …")] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Every decision and act, oldest first, with its numbers."""
    with connect(server, data_dir) as client:
        found = client.audit(limit, action=action, subject=subject)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            when(entry.at),
            entry.actor,
            entry.action,
            short(entry.subject),
            ", ".join(f"{key}={short(value)}" for key, value in entry.details.items()),
        )
        for entry in found
    ]
    asked = " and ".join(f"{what} '{text}'" for what, text in
                         (("action", action), ("subject", subject)) if text)  # fmt: skip
    empty = f"Nothing on record has {asked}." if asked else "Nothing happened yet."
    print_table(("at", "who", "action", "subject", "details"), rows, empty=empty)


def short(text: str) -> str:
    """A digest or serial as people recognize it; anything else as it is."""
    if text.startswith("sha256:"):
        return digest.short(text)
    return f"{text[:6]}…{text[-4:]}" if text.isdecimal() and len(text) > LONG_NUMBER else text
