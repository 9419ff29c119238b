"""``fitment device`` and ``fitment token``: who belongs to the fleet, and how it fares."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from controller.cli import applicants, keepsakes
from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    ago,
    connect,
    duration_s,
    pairs,
    print_facts,
    print_json,
    print_table,
    when,
)
from controller.cli.completing import complete_devices, complete_groups
from controller.domain import fleet
from controller.domain.telemetry import Period
from controller.errors import UserError
from controller.gateway.views import SeriesView
from fitment.core.deployment import ReportedState, SlotReport

Device = Annotated[str, typer.Argument(autocompletion=complete_devices)]

devices = typer.Typer(no_args_is_help=True, help="Enrolled devices.")
applicants.add_to(devices)
keepsakes.add_to(devices)
tokens = typer.Typer(no_args_is_help=True, help="One-time admissions.")


@devices.command("list")
def list_devices(
    *,
    where: Annotated[
        str, typer.Option(help="Only those that match, such as 'label.site == \"lab\" and online'.")
    ] = "",
    group: Annotated[
        str, typer.Option(help="Only those of a group.", autocompletion=complete_groups)
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Those out of service, too.")] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """All devices, or those that match, with profile and what they run."""
    with connect(server, data_dir) as client:
        listed = client.devices(where, group)
    found = [device for device in listed if every or not device.decommissioned_at]
    if as_json:
        print_json(found)
        return
    empty = "No device is enrolled yet; run: fitment token create"
    print_devices(found, empty="No device matches." if where or group else empty)


def print_devices(found: Sequence[fleet.Device], *, empty: str) -> None:
    """Devices as a table, or one line."""
    rows = [
        (device.name, _state(device), _profile(device), _runs(device), ago(device.last_seen))
        for device in found
    ]
    print_table(("device", "state", "profile", "runs", "seen"), rows, empty=empty)


@devices.command("show")
def show_device(
    name: Device,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """One device: what it is, why it got its profile, what it runs."""
    with connect(server, data_dir) as client:
        device = client.device(name)
    if as_json:
        print_json(device)
        return
    facts = {
        "device": device.name,
        "state": _state(device),
        "enrolled": when(device.enrolled_at),
        "seen": when(device.last_seen),
        "profile": device.profile,
        "because": device.profile_reason,
        "cohort": device.cohort.key if device.cohort else "",
        "labels": ", ".join(f"{key}={value}" for key, value in device.labels.items()),
        "runs": _runs(device),
    }
    if device.reported is not None:
        facts["agent"] = device.reported.agent_version
        facts["emulated"] = "yes: it stands in for a board" * device.reported.fingerprint.emulated
        facts["time zone"] = device.labels.get("time_zone") or device.reported.time_zone
        facts["rungs"] = "; ".join(rungs(device.reported))
        facts["allowance"] = allowance(device.reported)
        facts["notes"] = "; ".join(device.reported.notes)
    print_facts(facts)


@devices.command("pull")
def pull_model(
    name: Device,
    *,
    out: Annotated[Path, typer.Option(help="The folder to write it to.")] = Path(),
    slot: Annotated[str, typer.Option(help="Which model, where it runs more than one.")] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Get the model file that a device runs, byte for byte, with its calibration in it."""
    with connect(server, data_dir) as client:
        running = client.pull(name, slot)
    out.mkdir(parents=True, exist_ok=True)
    # The name comes over the network: only its last part may become a path.
    path = out / f"{name}-{Path(running.file_name).name}"
    path.write_bytes(running.data)
    facts = {
        "path": str(path),
        "sha256": running.sha256,
        "slot": running.slot,
        "variant": running.variant,
        "calibration": running.calibration,
    }
    if as_json:
        print_json({"device": name, **facts})
    else:
        print_facts(facts)


@devices.command("readmit")
def readmit_device(
    name: Device,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Put a device on record again that was enrolled after the backup. Not one that was revoked!"""
    with connect(server, data_dir) as client:
        device = client.readmit(name)
    if as_json:
        print_json(device)
    else:
        print(f"{name} is on record again, with the certificate that it has.")


@devices.command("revoke")
def revoke_device(
    name: Device,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Shut a device out, at once and for good; it needs a new token to come back."""
    with connect(server, data_dir) as client:
        device = client.revoke(name)
    if as_json:
        print_json(device)
    else:
        print(f"{name} is revoked.")


@devices.command("decommission")
def decommission_device(
    name: Device,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Take a device out of service, for good: certificate revoked, nothing asked of it any more.

    What is known of it stays. Its name is free at once; who takes it is another device, which no
    rollout that names the old one is for.
    """
    if not yes and (as_json or not typer.confirm(f"Take {name} out of service for good?")):
        raise UserError(f"{name} stays in service; say --yes to take it out without being asked")
    with connect(server, data_dir) as client:
        gone = client.decommission(name)
    if as_json:
        print_json(gone)
    else:
        print(f"{name} is out of service. Its history: fitment device history {name}")


@devices.command("telemetry")
def show_telemetry(
    name: Device,
    column: Annotated[str, typer.Argument(help="A quantity, with its unit in its name.")],
    *,
    limit: Annotated[int, typer.Option(min=1, help="Newest values.")] = 20,
    since: Annotated[
        str, typer.Option(help="How far back: 30m, 12h, 7d.", show_default=False)
    ] = "",
    period: Annotated[
        Period | None, typer.Option(help="Roll up instead: a row an hour, or a day.")
    ] = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """The newest values of one quantity of a device, or how they were over time."""
    begin = time.time() - duration_s(since) if since else None
    if period is not None:
        with connect(server, data_dir) as client:
            client.device(name)  # one that is not there has no empty history
            series = client.series(column, period.value, since=begin, device=name)
        _show_series(series, as_json=as_json)
        return
    with connect(server, data_dir) as client:
        view = client.telemetry(name, column, limit, begin or 0.0)
    if as_json:
        print_json(view)
        return
    rows = [(when(at), f"{value:g}") for at, value in view.values]
    empty = f"{name} has sent no '{column}' ({view.samples} samples of other quantities)"
    print_table(("at", column), rows, empty=empty)


def _show_series(series: SeriesView, *, as_json: bool) -> None:
    if as_json:
        print_json(series)
        return
    rows = [
        (
            when(row.start_s),
            str(row.count),
            *(f"{value:.4g}" for value in (row.min, row.mean, row.p50, row.p95, row.max)),
        )
        for row in series.rows
    ]
    columns = (f"{series.period} from", "values", "min", "mean", "p50", "p95", "max")
    print_table(columns, rows, empty=f"no '{series.column}' was rolled up in that time")


@tokens.command("create")
def create_token(
    *,
    ttl: Annotated[str, typer.Option(help="How long it admits: 15m, 2h, 7d.")] = "1h",
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE that the device gets; repeatable.")
    ] = None,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """A token that admits one device. Its text is shown once."""
    labels, ttl_s = pairs(label or [], "--label"), duration_s(ttl)
    with connect(server, data_dir) as client:
        token = client.create_token(ttl_s, labels)
    if as_json:
        print_json(token)
        return
    print(token.text)
    print(f"Admits one device until {when(token.expires_at)}. On the device:")
    print(f"  fitment-agent enroll --controller {token.enroll} --token {token.text}")


def _state(device: fleet.Device) -> str:
    if device.decommissioned_at:
        return "decommissioned"
    if device.revoked:
        return "revoked"
    return "online" if device.online else "offline"


def _profile(device: fleet.Device) -> str:
    emulated = device.reported is not None and device.reported.fingerprint.emulated
    return f"{device.profile or '-'}{' (emulated)' * emulated}"


def rungs(reported: ReportedState) -> list[str]:
    """For each slot with a ladder: which rung serves, since when and why, and what stands ready."""
    found = []
    for slot in reported.slots:
        if not slot.ladder and not slot.rung:
            continue
        since = f" since {when(slot.rung_since_unix)}" if slot.rung_since_unix else ""
        why = f" ({slot.rung_reason})" if slot.rung_reason else ""
        ready = ", ".join(
            f"{r.rung} {r.name}{'' if r.ready else f' not ready: {r.reason}'}" for r in slot.ladder
        )
        found.append(f"{slot.slot}: rung {slot.rung}{since}{why}; ladder: {ready or 'none'}")
    return found


def allowance(reported: ReportedState) -> str:
    """What it has used of what it may transfer and write, as it said last."""
    used = reported.allowance
    if used is None:
        return ""
    link = {True: "metered", False: "not metered", None: "taken as not metered"}[used.metered]
    month = _used(used.transferred_bytes, used.transfer_bytes_per_month)
    day = _used(used.written_bytes, used.write_bytes_per_day)
    return (
        f"{month} transferred this month, {day} written today; its link is {link}"
        f" ({used.metered_why})"
    )


def _used(count: int, cap: int) -> str:
    return f"{count / 1e6:.1f} MB" + (f" of {cap / 1e6:.1f} MB" if cap else "")


def _runs(device: fleet.Device) -> str:
    if device.reported is None:
        return "-"
    slots = [f"{slot.slot}: {_serves(slot)}" for slot in device.reported.slots if slot.variant]
    return ", ".join(slots) or "-"


def _serves(slot: SlotReport) -> str:
    """The chosen variant, or the lesser one that serves in its place."""
    lesser = next((rung.name for rung in slot.ladder if rung.rung == slot.rung), None)
    return slot.name if lesser is None else f"{lesser} (rung {slot.rung})"
