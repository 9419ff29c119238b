"""The fingerprint: all readers together."""

from __future__ import annotations

import os
from pathlib import Path

from agent.hardware import (
    android,
    boards,
    devicetree,
    emulation,
    jetson,
    linux,
    raspberry,
    rockchip,
    runtimes,
)
from agent.hardware.settings import HardwareSettings
from agent.jobs import RuntimeOptions
from agent.sysfs import DiskTree, MemoryTree, Run, Tree, run_command
from fitment.core import digest
from fitment.core.fingerprint import Facet, Fingerprint


def read_fingerprint(
    *,
    root: Path | str,
    settings: HardwareSettings,
    options: RuntimeOptions,
    enabled: tuple[str, ...] | None = None,
    run: Run = run_command,
) -> Fingerprint:
    """Read what this device is.

    With ``settings.emulates`` chassis and hardware are those of a shipped board and the
    fingerprint is marked; stack and condition stay those of the real process, because that is
    what runs. The hardware facts then name the host in ``emulated_on``, so that the hash, and
    with it the cohort and the kernel table, is never the real board's. The same goes for a
    process whose instructions an emulator translates: ``translated_on`` names where.

    Args:
        root: prefix of /proc and friends.
        settings: what to emulate.
        options: settings of the runtimes, part of the stack.
        enabled: runtimes that may be used; None allows all that are installed.
        run: starts vendor tools.

    Raises:
        BoardError: ``settings.emulates`` names no shipped board.
    """
    real: Tree = DiskTree(root)
    machine = os.uname().machine if str(root) == "/" else ""
    stack = _stack(real, run) | runtimes.stack(options, enabled=enabled)
    condition = linux.condition(real) | jetson.condition(real)
    if settings.emulates:
        board: Tree = MemoryTree(boards.load(settings.emulates).files)
        hardware = _hardware(board, "", _silent)
        hardware["emulated_on"] = _hardware(real, machine, run).get("machine", "unknown")
        chassis = _chassis(board)
    else:
        hardware, chassis = _hardware(real, machine, run), _chassis(real)
    host = emulation.translated_on(real, machine)
    if host:
        hardware["translated_on"] = host
    return Fingerprint(
        chassis=Facet.of(chassis),
        hardware=Facet.of(hardware),
        stack=Facet.of(stack),
        condition=Facet.of(condition),
        emulated=bool(settings.emulates or host),
    )


def _hardware(tree: Tree, machine: str, run: Run) -> dict[str, str]:
    return linux.hardware(tree, machine) | devicetree.hardware(tree) | android.hardware(tree, run)


def _stack(tree: Tree, run: Run) -> dict[str, str]:
    return jetson.stack(tree) | rockchip.stack(tree) | android.stack(tree, run)


def _chassis(tree: Tree) -> dict[str, str]:
    board = devicetree.board(tree) or linux.pc_board(tree)
    serial = devicetree.serial(tree) or raspberry.serial(tree) or linux.pc_serial(tree)
    facts = {"board": board} if board else {}
    if serial:
        # Enough to see that a board was exchanged, and not a name to track it by elsewhere.
        facts["serial_hash"] = digest.digest_bytes(b"fitment serial\0" + serial.encode())
    return facts


def _silent(_command: object) -> None:
    """A board in an archive has no tools to ask."""
