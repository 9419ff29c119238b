"""``fitment``: what operators type. One module a subject; errors are one line and an exit code."""

from __future__ import annotations

import sys

import typer

from controller.cli import fit, profiles, trust
from controller.errors import FitmentError, UserError
from profiles.errors import ProfileError

app = typer.Typer(
    name="fitment", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Keeps the right variant of a model on every device of a mixed fleet.",
)  # fmt: skip
app.command("fit")(fit.fit)
app.add_typer(profiles.app, name="profile")
app.add_typer(trust.app, name="trust")


def run() -> int:
    """Run the command line; 2 for what the caller can mend, 1 for the rest."""
    try:
        app()
    except (UserError, ProfileError) as error:
        print(f"fitment: {error}", file=sys.stderr)
        return 2
    except FitmentError as error:
        print(f"fitment: {error}", file=sys.stderr)
        return 1
    return 0
