"""``fitment variant``: two variants beside each other, as devices measured them."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    connect,
    counted,
    print_facts,
    print_json,
    print_table,
)
from controller.domain.comparison import Comparison, Group, Row, Side
from controller.domain.paired import OnDevice, Quantity, Reading, SideOnDevice
from fitment.core import digest

app = typer.Typer(no_args_is_help=True, help="Variants beside each other.")


@app.callback()
def variants() -> None:
    """Variants beside each other."""


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(help="What is compared with: a name or a digest.")],
    b: Annotated[str, typer.Argument(help="What is looked at.")],
    *,
    model: Annotated[str, typer.Option(help="A model's name or id; its newest version.")] = "",
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Compare B with A: latency, energy, agreement, memory, by kind of device and device by device.

    Only valid measurements count. Medians over six devices or more have intervals of 95 %; what
    was not measured is shown as "-", with the reason.
    """
    with connect(server, data_dir) as client:
        found = client.compare(a, b, model)
    if as_json:
        print_json(found)
        return
    _show(found)


def _show(found: Comparison) -> None:
    print_facts({"A": _side(found.a), "B": _side(found.b)})
    for group in found.groups:
        print()
        print(_head(group))
        quantities = ("quantity", "A", "B", "B by A", "B is", "because")
        print_table(quantities, [_row(row) for row in group.rows], empty="")
    print()
    columns = (
        "device",
        "A p50",
        "runs",
        "B p50",
        "runs",
        "B by A",
        "energy",
        "agreement",
        "memory",
    )
    print_table(
        columns, [_device(d) for d in found.devices],
        empty="No device has measured either yet; a rollout or a fit with devices does.",
    )  # fmt: skip


def _side(side: Side) -> str:
    bundles = ", ".join(digest.short(v.bundle.variant) for v in side.variants)
    return f"{side.name} of {side.model_name} {side.version} ({bundles})"


def _head(group: Group) -> str:
    stand_ins = " (emulated)" if group.emulated else ""
    left = ", ".join(f"{count} {verdict}" for verdict, count in group.left_out.items())
    words = f"; left out: {left}" if left else ""
    return f"{group.profile or 'no profile'}{stand_ins}: {counted(group.devices, 'device')}{words}"


def _row(row: Row) -> tuple[str, ...]:
    quantity = row.quantity
    return (
        quantity.value, f"{shown(quantity, row.a)} ({row.a_devices})",
        f"{shown(quantity, row.b)} ({row.b_devices})",
        f"{changed(quantity, row.change)} ({row.pairs})", row.finding.value, row.because,
    )  # fmt: skip


def _device(found: OnDevice) -> tuple[str, ...]:
    def change(quantity: Quantity) -> str:
        found_change = found.changes[quantity.value]
        return "-" if found_change.value is None else changed(quantity, found_change)

    how = ", interleaved" if found.interleaved else ""
    return (
        found.device, *_timed(found.a), *_timed(found.b), change(Quantity.LATENCY) + how,
        change(Quantity.ENERGY), change(Quantity.AGREEMENT), change(Quantity.MEMORY),
    )  # fmt: skip


def _timed(side: SideOnDevice | None) -> tuple[str, str]:
    if side is None:
        return "-", "-"
    return shown(Quantity.LATENCY, side.latency_ms), f"{side.runs}, {side.verdict.value}"


def shown(quantity: Quantity, found: Reading) -> str:
    """A value with its unit and interval, or a dash."""
    if found.value is None:
        return "-"
    scale, unit, digits = _UNITS[quantity]
    words = f"{found.value * scale:.{digits}f}{unit}"
    if found.low is None or found.high is None:
        return words
    return f"{words} [{found.low * scale:.{digits}f}, {found.high * scale:.{digits}f}]"


def changed(quantity: Quantity, found: Reading) -> str:
    """A ratio, or a difference of agreement in points; a dash and the reason."""
    if found.value is None:
        return f"- ({found.why})" if found.why else "-"
    points = quantity is Quantity.AGREEMENT

    def one(value: float) -> str:
        return f"{value * 100:+.2f}" if points else f"{value:.3f}"

    words = f"{one(found.value)} points" if points else f"x {one(found.value)}"
    if found.low is None or found.high is None:
        return words
    return f"{words} [{one(found.low)}, {one(found.high)}]"


_UNITS = {
    Quantity.LATENCY: (1.0, " ms", 3),
    Quantity.ENERGY: (1.0, " mJ", 3),
    Quantity.AGREEMENT: (100.0, " %", 2),
    Quantity.MEMORY: (1e-6, " MB", 1),
}
