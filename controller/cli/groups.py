"""``fitment group``: devices by what they are, under a name."""

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
from controller.cli.completing import complete_groups
from controller.cli.devices import print_devices
from controller.gateway.views import GroupView

app = typer.Typer(
    no_args_is_help=True,
    help="Devices by what they are: named expressions, looked at anew each time.",
)
Name = Annotated[str, typer.Argument(autocompletion=complete_groups)]
Expression = Annotated[
    str,
    typer.Argument(
        help='Such as \'label.site == "lab" and profile ~ "jetson-*" and runtime.onnx >= "1.20"\'.'
    ),
]


@app.command("create")
def create_group(
    name: str,
    expression: Expression,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Keep EXPRESSION under NAME; who is of the group is decided whenever it is asked for.

    Facts: name, profile, cohort, online, last_seen, enrolled, reported, healthy, degraded,
    emulated, agent, release, variant, time_zone, label.KEY, runtime.KEY, hardware.KEY, stack.KEY,
    condition.KEY, chassis.KEY, slot.NAME.release and the like. Signs: == != < <= > >= ~ (a
    pattern with * and ?) !~ in, not in; and, or, not, ( ). Numbers in quotes are compared as
    versions; last_seen and enrolled with moments ("2026-11-25T10:00:00Z") or with how long ago
    that is: last_seen < 2h ago.
    """
    with connect(server, data_dir) as client:
        made = client.create_group(name, expression)
    _answer(made, as_json=as_json)


@app.command("change")
def change_group(
    name: Name,
    expression: Expression,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Another expression for a group; rollouts that were made for it keep the one they have."""
    with connect(server, data_dir) as client:
        changed = client.change_group(name, expression)
    _answer(changed, as_json=as_json)


@app.command("list")
def list_groups(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """All groups."""
    with connect(server, data_dir) as client:
        found = client.groups()
    if as_json:
        print_json(found)
        return
    rows = [(group.name, group.where, when(group.created_at)) for group in found]
    empty = "There is no group; run: fitment group create NAME EXPRESSION"
    print_table(("group", "expression", "created"), rows, empty=empty)


@app.command("show")
def show_group(
    name: Name,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """One group, and how many devices it takes now."""
    with connect(server, data_dir) as client:
        found = client.group(name)
    _answer(found, as_json=as_json)


@app.command("members")
def list_members(
    name: Name,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """The devices that a group takes now."""
    with connect(server, data_dir) as client:
        view = client.group(name)
        found = client.devices(group=name)
    if as_json:
        print_json(found)
    else:
        print_devices(found, empty=view.note)


@app.command("delete")
def delete_group(
    name: Name,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Forget a group; its devices and the rollouts made for it stay as they are."""
    with connect(server, data_dir) as client:
        gone = client.delete_group(name)
    if as_json:
        print_json(gone)
    else:
        print(f"The group {name} is gone; it was: {gone.where}")


def _answer(view: GroupView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    group = view.group
    print_facts(
        {
            "group": group.name,
            "expression": group.where,
            "devices": f"{view.members}, {view.online} online",
            "created": when(group.created_at),
            "changed": when(group.changed_at) if group.changed_at else "",
            "note": view.note,
        }
    )
