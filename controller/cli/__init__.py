"""``fitment``: what operators type. One module a subject; errors are one line and an exit code.

Nothing heavy is imported before a command needs it: ``fitment --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from controller.cli import (
    backups,
    conformance,
    demo,
    devices,
    fit,
    groups,
    labels,
    models,
    operators,
    profiles,
    releases,
    rollouts,
    serve,
    simulate,
    stacks,
    telemetry,
    tickets,
    trust,
    variants,
    watching,
)
from controller.errors import FitmentError, UserError, disk_error
from profiles.errors import ProfileError

USER_ERROR = 2
"""Exit code of what the caller can mend."""
FAILURE = 1
INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The whole command line, from its modules."""
    app = typer.Typer(
        name="fitment", no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Keeps the right variant of a model on every device of a mixed fleet.",
    )  # fmt: skip
    app.command("demo")(demo.demo)
    app.command("serve")(serve.serve)
    app.command("status")(watching.status)
    app.add_typer(devices.tokens, name="token")
    app.add_typer(devices.devices, name="device")
    app.add_typer(groups.app, name="group")
    app.add_typer(operators.app, name="operator")
    app.add_typer(models.app, name="model")
    app.command("fit")(fit.fit)
    app.add_typer(variants.app, name="variant")
    app.add_typer(releases.app, name="release")
    app.add_typer(rollouts.app, name="rollout")
    app.add_typer(labels.app, name="label")
    app.add_typer(telemetry.app, name="telemetry")
    app.add_typer(watching.triggers, name="trigger")
    app.add_typer(tickets.app, name="ticket")
    app.add_typer(stacks.app, name="stack")
    app.command("simulate")(simulate.simulate)
    app.command("conformance")(conformance.conformance)
    app.command("audit")(watching.audit)
    app.command("backup")(backups.backup)
    app.command("restore")(backups.restore)
    app.add_typer(profiles.app, name="profile")
    app.add_typer(trust.app, name="trust")
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        build_app()(given, prog_name="fitment")
    except (UserError, ProfileError) as error:
        return _fails(error, USER_ERROR)
    except FitmentError as error:
        return _fails(error, FAILURE)
    except OSError as error:  # a full disk, a folder that may not be written
        return _fails(disk_error(error), FAILURE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILURE * (end.code is not None)
    return 0


def _fails(error: Exception, code: int) -> int:
    print(f"fitment: {error}", file=sys.stderr)
    return code
