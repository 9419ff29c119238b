"""``fitment backup`` and ``fitment restore``: a data directory as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.common import DEFAULT_DATA_DIR, DataDir, Json, bar, print_json, when
from controller.errors import UserError

_Archive = Annotated[Path, typer.Argument(help="The backup.", show_default=False)]


def backup(
    archive: _Archive, *, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """Write a data directory into one file, while its controller runs or not.

    Run it on the controller's machine, as the user who owns the directory. The file holds private
    keys: keep it like one.
    """
    from controller.backup import take

    with bar() as progress:
        made = take.take(data_dir, archive, progress=progress)
    if as_json:
        print_json(made)
        return
    print(f"{archive}: {made.files} files, {_mb(made.bytes)} in {_mb(made.archive_bytes)}")
    for note in made.notes:
        print(f"note: {note}")
    print("It holds private keys: keep it like one. To see whether it is whole:")
    print(f"  fitment restore {archive} --check")


def restore(
    archive: _Archive,
    *,
    data_dir: Annotated[
        Path | None, typer.Option(help="The new data directory; it must be empty or not there.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only see whether it is whole.")] = False,
    as_json: Json = False,
) -> None:
    """Make a new data directory from a backup, every file checked against its digest.

    The first start on it pauses the rollouts that ran then, and goes on above what the devices
    have seen since.
    """
    from controller.backup import restore as room

    if not check and data_dir is None:
        raise UserError("say where to restore to: --data-dir NEW; or only --check the backup")
    if not archive.is_file():
        raise UserError(f"there is no backup at {archive}")
    with bar() as progress:
        done = (
            room.check(archive, progress=progress)
            if check or data_dir is None
            else room.restore(archive, data_dir, progress=progress)
        )
    if as_json:
        print_json(done)
        return
    what = f"{done.files} files, {_mb(done.bytes)}, of {when(done.backup_at)}"
    for note in done.notes:
        print(f"note: {note}")
    if check:
        print(f"{archive} is whole: {what}")
        return
    print(f"{data_dir}: {what}")
    print("End the old controller for good before you start this one:")
    print(f"  fitment serve --data-dir {data_dir}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
