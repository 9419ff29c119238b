"""``fitment profile``: what Fitment knows of classes of devices."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import profiles
from controller.errors import NotFound
from fitment.core import plain

app = typer.Typer(no_args_is_help=True, help="Classes of devices.")
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


@app.command("list")
def list_profiles(*, as_json: Json = False) -> None:
    """All profiles, with the runtimes and schemes that each can use."""
    known = profiles.all_profiles()
    if as_json:
        print(json.dumps([plain.to_plain(profile) for profile in known], indent=2))
        return
    table = Table("profile", "title", "runtimes (schemes)")
    for profile in known:
        runtimes = "; ".join(f"{r.name} ({', '.join(r.schemes)})" for r in profile.runtimes)
        table.add_row(profile.name, profile.title, runtimes)
    Console().print(table)


@app.command()
def show(name: str, *, as_json: Json = False) -> None:
    """One profile, whole."""
    try:
        profile = profiles.load_profile(name)
    except profiles.ProfileError as error:
        raise NotFound(str(error)) from error
    text = json.dumps(plain.to_plain(profile), indent=2)
    if as_json:
        print(text)
    else:
        Console().print_json(text)
