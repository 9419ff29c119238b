"""``fitment release``: which variant each cohort gets."""

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

app = typer.Typer(no_args_is_help=True, help="Signed choices of variants.")


@app.command("create")
def create_release(
    model: str,
    *,
    with_fallback: Annotated[
        bool,
        typer.Option(
            "--with-fallback",
            help="Name lesser variants, too: devices keep them ready for heat, a low battery,"
            " short memory, or a stack on which the chosen one fails.",
        ),
    ] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """A release of what the finished fits of MODEL chose."""
    with connect(server, data_dir) as client:
        release = client.create_release(model, with_fallback=with_fallback)
    if as_json:
        print_json(release)
        return
    _show(release)
    if release.approved_at:
        print(f"Roll it out: fitment rollout create {release.id}")
    else:
        print(f"Approve it: fitment release approve {release.id}")


@app.command("list")
def list_releases(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """All releases."""
    with connect(server, data_dir) as client:
        found = client.releases()
    if as_json:
        print_json(found)
        return
    rows = [
        (r.id, r.slot, str(r.counter), str(len(_cohorts(r))), when(r.approved_at)) for r in found
    ]
    columns = ("release", "slot", "counter", "cohorts", "approved")
    print_table(columns, rows, empty="There is no release; run: fitment release create MODEL")


@app.command("show")
def show_release(
    release: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """One release, with the reason for each choice."""
    with connect(server, data_dir) as client:
        found = client.release(release)
    if as_json:
        print_json(found)
    else:
        _show(found)


@app.command("approve")
def approve_release(
    release: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Sign a release with the offline keys, so that devices accept it."""
    with connect(server, data_dir) as client:
        approved = client.approve_release(release)
    if as_json:
        print_json(approved)
        return
    print(f"Release {approved.id} is approved.")
    print(f"Roll it out: fitment rollout create {approved.id}")


def _show(release: fleet.Release) -> None:
    print_facts(
        {
            "release": release.id,
            "slot": release.slot,
            "counter": str(release.counter),
            "created": when(release.created_at),
            "approved": when(release.approved_at),
        }
    )
    rows = [
        (key, digest.short(variant), release.reasons.get(key, ""))
        for key, variant in release.variants.items()
    ]
    print_table(("cohort or profile", "variant", "because"), rows, empty="It has no variants.")
    if release.ladders:
        rungs = [
            (key, str(number), digest.short(rung.variant), relieves(rung), rung.reason)
            for key, ladder in release.ladders.items()
            for number, rung in enumerate(ladder, 1)
        ]
        columns = ("cohort or profile", "rung", "variant", "relieves", "because")
        print_table(columns, rows=rungs, empty="No lesser variant was found.")
    for key, note in release.ladder_notes.items():
        if note:
            print(f"{key}: {note}")


def relieves(rung: fleet.Rung) -> str:
    """Of what it takes less, in words."""
    return ", ".join(pressure.value for pressure in rung.relieves) or "-"


def _cohorts(release: fleet.Release) -> list[str]:
    return [key for key in release.variants if "/" in key]
