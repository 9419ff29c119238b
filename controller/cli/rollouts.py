"""``fitment rollout``: a release on its way to devices."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    connect,
    duration_s,
    pairs,
    print_facts,
    print_json,
    print_table,
    when,
)
from controller.domain import fleet
from controller.errors import UserError
from controller.gateway.views import RolloutView
from fitment.core import digest

app = typer.Typer(no_args_is_help=True, help="Releases on their way to devices.")


@app.command("create")
def create_rollout(  # noqa: PLR0913 - one parameter an option
    release: str,
    *,
    waves: Annotated[str, typer.Option(help="Rising shares of the devices.")] = "0.1,0.5,1",
    select: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE: a label, profile or name; repeatable.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="A device; repeatable.")] = None,
    soak: Annotated[str, typer.Option(help="Pause after each wave.")] = "0s",
    deadline: Annotated[str, typer.Option(help="For each device.")] = "1h",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Send RELEASE to the whole fleet, or to what is selected, wave by wave."""
    plan: dict[str, Any] = {
        "waves": shares(waves),
        "selector": pairs(select or [], "--select"),
        "devices": list(device or []),
        "soak_s": duration_s(soak),
        "deadline_s": duration_s(deadline),
    }
    with connect(server, data_dir) as client:
        view = client.create_rollout(release, **plan)
    _answer(view, as_json=as_json)


@app.command("list")
def list_rollouts(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """All rollouts."""
    with connect(server, data_dir) as client:
        found = client.rollouts()
    if as_json:
        print_json(found)
        return
    rows = [(r.id, r.state.value, _wave(r), when(r.created_at), r.release) for r in found]
    columns = ("rollout", "state", "wave", "created", "release")
    print_table(columns, rows, empty="There is no rollout; run: fitment rollout create RELEASE")


@app.command("status")
def rollout_status(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """One rollout, and how each of its devices fares."""
    with connect(server, data_dir) as client:
        view = client.rollout(rollout)
    _answer(view, as_json=as_json)


@app.command("pause")
def pause_rollout(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Admit nobody else; who has begun goes on."""
    _change(rollout, "pause", server=server, data_dir=data_dir, as_json=as_json)


@app.command("resume")
def resume_rollout(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Go on after a pause."""
    _change(rollout, "resume", server=server, data_dir=data_dir, as_json=as_json)


@app.command("cancel")
def cancel_rollout(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Give it up; devices that are done keep what they have."""
    _change(rollout, "cancel", server=server, data_dir=data_dir, as_json=as_json)


@app.command("revert")
def revert_rollout(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Take devices that were updated back to the release before."""
    _change(rollout, "revert", server=server, data_dir=data_dir, as_json=as_json)


def shares(text: str) -> list[float]:
    """``0.1,0.5,1`` or ``10%,50%,100%`` as numbers; the controller judges them.

    Raises:
        UserError: one is no number.
    """
    try:
        return [
            float(part.rstrip("%")) / (100 if part.endswith("%") else 1)
            for part in (piece.strip() for piece in text.split(","))
        ]
    except ValueError as error:
        raise UserError(f"--waves takes shares such as 0.1,0.5,1, not '{text}'") from error


def _change(rollout: str, act: str, *, server: str, data_dir: DataDir, as_json: bool) -> None:
    with connect(server, data_dir) as client:
        view = client.change_rollout(rollout, act)
    _answer(view, as_json=as_json)


def _answer(view: RolloutView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    rollout = view.rollout
    print_facts(
        {
            "rollout": rollout.id,
            "release": rollout.release,
            "state": rollout.state.value,
            "wave": _wave(rollout),
            "created": when(rollout.created_at),
            "because": "; ".join(rollout.reasons),
            "goes back to": rollout.revert_release,
        }
    )
    rows = [
        (d.device, str(d.wave + 1), digest.short(d.variant), _progress(d), _latency(d))
        for d in view.deployments
    ]
    columns = ("device", "wave", "variant", "state", "p50")
    print_table(columns, rows, empty="No device was admitted yet.")


def _wave(rollout: fleet.Rollout) -> str:
    return f"{min(rollout.wave + 1, len(rollout.waves))} of {len(rollout.waves)}"


def _progress(deployment: fleet.Deployment) -> str:
    if deployment.outcome is None:
        return deployment.state.value
    why = "; ".join(deployment.reasons)
    return f"{deployment.outcome.value}: {why}" if why else deployment.outcome.value


def _latency(deployment: fleet.Deployment) -> str:
    taken = deployment.measurement
    if taken is None or taken.latency is None:
        return "-"
    words = f"{taken.latency.p50_ms:.3f} ms, {taken.verdict.value}"
    return f"{words}, emulated" if taken.emulated else words
