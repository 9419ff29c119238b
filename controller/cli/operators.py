"""``fitment operator``: tokens of those who look after the fleet."""

from __future__ import annotations

import time
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
    print_table,
    when,
)
from controller.domain.roles import Role
from controller.gateway.views import OperatorView

app = typer.Typer(no_args_is_help=True, help="Operators' tokens and roles.")


@app.command("create")
def create_operator(
    name: str,
    *,
    role: Annotated[
        Role, typer.Option(help="viewer looks; operator rolls out; admin signs and shuts out.")
    ],
    ttl: Annotated[
        str, typer.Option(help="How long it lasts: 8h, 90d; without: until it is revoked.")
    ] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """A token for one operator. Its text is shown once; only its hash is kept."""
    ttl_s = duration_s(ttl) if ttl else 0.0
    with connect(server, data_dir) as client:
        made = client.create_operator(name, role, ttl_s)
    if as_json:
        print_json(made)
        return
    from controller.calls import TOKEN_VARIABLE

    print(made.text)
    until = (
        f"until {when(made.operator.expires_at)}" if made.operator.expires_at else "until revoked"
    )
    print(f"{name} is {role.value} with it, {until}:")
    print(f"  export {TOKEN_VARIABLE}={made.text}")


@app.command("list")
def list_operators(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """Who has a token, and for what. The one in the data directory's operator.token is not here."""
    with connect(server, data_dir) as client:
        found = client.operators()
    if as_json:
        print_json(found)
        return
    rows = [(o.name, o.role.value, when(o.created_at), _state(o)) for o in found]
    print_table(("operator", "role", "since", "token"), rows, empty="no operator has a token")


@app.command("revoke")
def revoke_operator(
    name: str, *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """End an operator's token, at once; sessions of the dashboard end with it."""
    with connect(server, data_dir) as client:
        ended = client.revoke_operator(name)
    if as_json:
        print_json(ended)
    else:
        print(f"{name} has no token any more.")


@app.command("whoami")
def whoami(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """Whose token is used here, and its role."""
    with connect(server, data_dir) as client:
        who = client.whoami()
    if as_json:
        print_json(who)
    else:
        print(f"{who.name}: {who.role.value}")


def _state(known: OperatorView) -> str:
    if known.revoked_at:
        return f"revoked {when(known.revoked_at)}"
    if not known.expires_at:
        return "lasts"
    over = known.expires_at <= time.time()
    return f"{'ended' if over else 'until'} {when(known.expires_at)}"
