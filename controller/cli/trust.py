"""``fitment trust``: the keys that devices believe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.common import Json, print_json

app = typer.Typer(no_args_is_help=True, help="Keys and certificates.")


@app.command()
def init(
    *,
    data_dir: Annotated[Path, typer.Option(help="The controller's data directory.")],
    offline_dir: Annotated[Path, typer.Option(help="Where the root and targets keys go.")],
    host: Annotated[
        list[str] | None, typer.Option(help="A name under which devices come; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make every key. Move OFFLINE_DIR to a medium that is kept apart; releases need it."""
    from controller.trust import Trust

    trust = Trust.create(data_dir / "trust", offline_dir, tuple(host or ()))
    facts = {
        "trust": str(trust.folder),
        "offline": str(offline_dir),
        "ca_fingerprint": trust.ca.fingerprint(),
    }
    if as_json:
        print_json(facts)
        return
    print(f"Keys are in {trust.folder}; the offline keys of root and targets in {offline_dir}.")
    print(f"The certificate authority's fingerprint is {facts['ca_fingerprint']}.")
