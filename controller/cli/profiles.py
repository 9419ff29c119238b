"""``fitment profile``: what Fitment knows of classes of devices."""

from __future__ import annotations

import typer

import profiles
from controller.cli.common import Json, print_facts, print_json, print_table
from controller.errors import NotFound
from fitment.core import plain

app = typer.Typer(no_args_is_help=True, help="Classes of devices.")


@app.command("list")
def list_profiles(*, as_json: Json = False) -> None:
    """All profiles, with the runtimes and schemes that each can use."""
    known = profiles.all_profiles()
    if as_json:
        print_json(known)
        return
    rows = [
        (p.name, p.title, "; ".join(f"{r.name} ({', '.join(r.schemes)})" for r in p.runtimes))
        for p in known
    ]
    print_table(("profile", "title", "runtimes (schemes)"), rows, empty="There is no profile.")


@app.command()
def show(name: str, *, as_json: Json = False) -> None:
    """One profile, whole."""
    try:
        profile = profiles.load_profile(name)
    except profiles.ProfileError as error:
        raise NotFound(str(error)) from error
    if as_json:
        print_json(profile)
        return
    facts = {key: _spoken(value) for key, value in plain.to_plain(profile).items()}
    print_facts(facts)


def _spoken(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spoken(item)}" for key, item in value.items() if item)
    if isinstance(value, list):
        return "; ".join(_spoken(item) for item in value)
    return "" if value is None else str(value)
