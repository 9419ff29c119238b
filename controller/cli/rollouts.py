"""``fitment rollout``: a release on its way to devices."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from controller.cli import rollout_options as options
from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    connect,
    counted,
    duration_s,
    pairs,
    print_facts,
    print_json,
    print_table,
    when,
)
from controller.cli.completing import (
    complete_devices,
    complete_rollouts,
)
from controller.cli.labels import JUDGED, judged
from controller.cli.previews import show_preview
from controller.domain import eligible, fleet, windows
from controller.domain.judgement import Exposure, GateReport, TooFew
from controller.errors import UserError
from controller.gateway.views import RolloutView
from fitment.core import digest
from fitment.core.deployment import DeploymentState

Rollout = Annotated[str, typer.Argument(autocompletion=complete_rollouts)]

app = typer.Typer(no_args_is_help=True, help="Releases on their way to devices.")


@app.command("create")
def create_rollout(  # noqa: PLR0913 - one parameter an option
    release: options.Release,
    *,
    waves: options.Waves = "0.1,0.5,1",
    select: options.Select = None,
    where: options.Where = "",
    group: options.Group = "",
    device: options.Device = None,
    soak: options.Soak = "0s",
    deadline: options.Deadline = "",
    window: options.Window = None,
    shadow: options.Shadow = "0s",
    shadow_inputs: options.ShadowInputs = 100,
    failures: options.Failures = "0",
    slower: options.Slower = "1.1",
    agreement: options.Agreement = "",
    energy: options.Energy = "",
    memory: options.Memory = "",
    throttled: options.Throttled = "",
    coverage: options.Coverage = "",
    field_drop: options.FieldDrop = "",
    must_pass: options.MustPass = False,
    coverage_drop: options.CoverageDrop = "",
    agreement_drop: options.AgreementDrop = "",
    false_halts: options.FalseHalts = "0.05",
    min_sample: options.MinSample = 1,
    cluster: options.Cluster = "",
    metered: options.Metered = False,
    ask: options.Ask = False,
    control: options.Control = "",
    control_by: options.ControlBy = "",
    control_for: options.ControlFor = "0s",
    dry_run: options.DryRun = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Send RELEASE to the whole fleet, or to what is selected, wave by wave."""
    told = dict(locals())
    plan: dict[str, Any] = {
        "waves": shares(waves),
        "selector": pairs(select or [], "--select"),
        "where": where,
        "group": group,
        "devices": list(device or []),
        "soak_s": duration_s(soak),
        "deadline_s": duration_s(deadline) if deadline else _usual_s(window, shadow),
        "windows": list(window or []),
        "metered": metered,
        "control_share": share(control, "--control") if control else 0.0,
        "control_by": control_by,
        "control_s": duration_s(control_for),
        "gate": _judged_by(told),
    }
    with connect(server, data_dir) as client:
        if dry_run:
            show_preview(client.preview_rollout(release, **plan), as_json=as_json)
            return
        view = client.create_rollout(release, **plan)
    _answer(view, as_json=as_json)


def _usual_s(window: list[str] | None, shadow: str) -> float:
    """The deadline where none is given."""
    return duration_s("8d" if window else "1h") + duration_s(shadow)


LIMITS = {
    "agreement_min": "agreement",
    "energy_ratio_max": "energy",
    "memory_ratio_max": "memory",
    "thermal_share_max": "throttled",
    "coverage_min": "coverage",
    "coverage_drop_max": "coverage_drop",
    "agreement_drop_max": "agreement_drop",
    "field_drop_max": "field_drop",
}
"""Field of a gate, and the option that sets it; what nobody gives is not asked."""


def _judged_by(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a rollout is judged by, from the options of `create_rollout`."""
    asked = {
        key: share(told[name], f"--{name.replace('_', '-')}") if told[name] else None
        for key, name in LIMITS.items()
    }
    return asked | {
        "max_failure_share": share(told["failures"], "--failures"),
        "latency_ratio_max": None if told["slower"] == "any" else share(told["slower"], "--slower"),
        "must_pass": told["must_pass"],
        "false_halt_rate": share(told["false_halts"], "--false-halts"),
        "min_sample": told["min_sample"],
        "cluster": told["cluster"],
        "shadow_s": duration_s(told["shadow"]),
        "shadow_inputs": told["shadow_inputs"],
        "too_few": (TooFew.ASK if told["ask"] else TooFew.PROCEED).value,
    }


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
    rollout: Rollout,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """One rollout, and how each of its devices fares."""
    with connect(server, data_dir) as client:
        view = client.rollout(rollout)
    _answer(view, as_json=as_json)


@app.command("retry")
def retry_rollout(
    rollout: Rollout,
    *,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this one, also if it refused the release; repeatable.",
            autocompletion=complete_devices,
        ),
    ] = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Give devices that failed another turn; gates go on counting their first attempt."""
    with connect(server, data_dir) as client:
        view = client.retry_rollout(rollout, device or [])
    _answer(view, as_json=as_json)


@app.command("pause")
def pause_rollout(
    rollout: Rollout,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Admit nobody else; who has begun goes on, but for devices that wait for a window."""
    _change(rollout, "pause", server=server, data_dir=data_dir, as_json=as_json)


@app.command("resume")
def resume_rollout(
    rollout: Rollout,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Go on after a pause."""
    _change(rollout, "resume", server=server, data_dir=data_dir, as_json=as_json)


@app.command("cancel")
def cancel_rollout(
    rollout: Rollout,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Give it up; devices that are done keep what they have."""
    _change(rollout, "cancel", server=server, data_dir=data_dir, as_json=as_json)


@app.command("revert")
def revert_rollout(
    rollout: Rollout,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Take devices that were updated back to the release before."""
    _change(rollout, "revert", server=server, data_dir=data_dir, as_json=as_json)


@app.command("let-go")
def let_control_go(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """End the control group now: its devices get the release like the others."""
    _change(rollout, "let-go", server=server, data_dir=data_dir, as_json=as_json)


@app.command("field")
def rollout_field(
    rollout: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """What labels from the field, and the mix of predictions, say of ROLLOUT."""
    with connect(server, data_dir) as client:
        found = client.rollout_field(rollout)
    if as_json:
        print_json(found)
        return
    rows = [(r.group, r.slice or "all", *judged(r.counted, r.low, r.high)) for r in found.rows]
    columns = ("devices", "slice", *JUDGED)
    print_table(columns, rows, empty="No label was posted; see: fitment label post --help")
    for mix in found.mix:
        shares_of = ", ".join(f"{name} {share:.1%}" for name, share in sorted(mix.shares.items()))
        moved = "" if mix.moved is None else f", {mix.moved:.1%} from before"
        print(f"predictions, {mix.group} ({counted(mix.devices, 'device')}{moved}): {shares_of}")


def shares(text: str) -> list[float]:
    """``0.1,0.5,1`` or ``10%,50%,100%`` as numbers; the controller judges them.

    Raises:
        UserError: one is no number.
    """
    try:
        return [_part(piece.strip()) for piece in text.split(",")]
    except ValueError as error:
        raise UserError(f"--waves takes shares such as 0.1,0.5,1, not '{text}'") from error


def share(text: str, option: str) -> float:
    """``0.02`` or ``2%`` as a number.

    Raises:
        UserError: it is none.
    """
    try:
        return _part(text.strip())
    except ValueError as error:
        raise UserError(f"{option} takes a number such as 0.02 or 2%, not '{text}'") from error


def _part(text: str) -> float:
    number = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


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
            "for": eligible.asked_for(rollout),
            "state": rollout.state.value,
            "wave": _wave(rollout),
            "created": when(rollout.created_at),
            "because": "; ".join(rollout.reasons),
            "switches in": "; ".join(rollout.windows),
            "metered links": "may be used" * rollout.metered,
            "asks": f"{rollout.asks}; answer: fitment rollout resume" if rollout.asks else "",
            "admitted": _exposed(view.exposure),
            "goes back to": rollout.revert_release,
            "control group": _control(view),
            "left before their turn": "; ".join(f"{n}: {why}" for n, why in view.left.items()),
        }
    )
    if view.gates:
        gate_columns = (
            "cohort",
            "gate",
            "stands",
            "estimate",
            "bounds",
            "bet",
            "devices",
            "because",
        )
        print_table(gate_columns, [_gate(report) for report in view.gates], empty="")
    rows = [
        (d.device, str(d.wave + 1), digest.short(d.variant), _progress(d), _fetched(d), _latency(d))
        for d in view.deployments
    ]
    columns = ("device", "wave", "variant", "state", "received", "p50")
    print_table(columns, rows, empty="No device was admitted yet.")


def _gate(report: GateReport) -> tuple[str, ...]:
    bet = "-"
    if report.e_value is not None and report.e_needed is not None:
        bet = f"{report.e_value:.3g} of {report.e_needed:.4g}"
    return (
        report.cohort, report.gate, report.verdict.value, _number(report.estimate),
        f"{_number(report.low)} to {_number(report.high)}", bet,
        f"{report.samples} (+{report.waiting}, {report.missing} silent)", report.reason,
    )  # fmt: skip


def _control(view: RolloutView) -> str:
    made = view.rollout
    if not made.control_below:
        return ""
    if made.control_ended_at:
        return f"was let go {when(made.control_ended_at)}"
    by = f" by {made.control_by}" if made.control_by else ""
    names = ", ".join(view.control[:5]) + (" …" if len(view.control) > 5 else "")
    return (
        f"{counted(len(view.control), 'device')}{by}, kept on what runs there until"
        f" {made.control_s:g} s after the last wave ({names})"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _exposed(found: Exposure) -> str:
    likely = "" if found.likely_bound is None else (
        f"; {found.likely_bound} of a cohort, with 95 % confidence, if {found.detects:.0%} fail"
    )  # fmt: skip
    return f"{found.admitted}, at most {found.bound} in this wave{likely}"


def _wave(rollout: fleet.Rollout) -> str:
    return f"{min(rollout.wave + 1, len(rollout.waves))} of {len(rollout.waves)}"


def _progress(deployment: fleet.Deployment) -> str:
    if deployment.outcome is None:
        waits = f", waits: {deployment.held}" if deployment.held else _window(deployment)
        return deployment.state.value + waits
    why = "; ".join(deployment.reasons)
    if deployment.attempt > 1:
        why = f"attempt {deployment.attempt}{'; ' * bool(why)}{why}"
    return f"{deployment.outcome.value}: {why}" if why else deployment.outcome.value


def _window(deployment: fleet.Deployment) -> str:
    """When it may switch, for one that waits."""
    coming = windows.coming(deployment.windows, time.time())
    if deployment.state is not DeploymentState.WAITING or coming is None:
        return ""
    if coming.opens_unix <= time.time():
        return f", its window is open until {when(coming.closes_unix)}"
    return f", its window opens {when(coming.opens_unix)}"


def _fetched(deployment: fleet.Deployment) -> str:
    """What came over the wire, and whether it was a delta."""
    if not deployment.fetched_bytes:
        return "-"
    words = f"{deployment.fetched_bytes / 1000:.1f} kB"
    return f"{words}, delta" if deployment.delta_base else words


def _latency(deployment: fleet.Deployment) -> str:
    taken = deployment.measurement
    if taken is None or taken.latency is None:
        return "-"
    words = f"{taken.latency.p50_ms:.3f} ms, {taken.verdict.value}"
    return f"{words}, emulated" if taken.emulated and taken.tells_costs else words
