"""Boards that are emulated whole: real arm64 processes of the unmodified agent under qemu-user.

The emulator is given a root with Debian's arm64 libraries and the text files of a board. What a
process opens by an absolute path comes from there when it is there, so the agent reads the board's
``/proc`` and ``/sys`` at their usual places, without a setting that says so.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.hardware import boards

CPU = "cortex-a76"
"""Of those that the emulator knows the one whose instruction sets both boards have at least."""
_CACHES = (("Data", 1, 65536), ("Instruction", 1, 65536), ("Unified", 2, 524288))
"""Of a Cortex-A76 and an A78AE; Arm's manuals allow more, runtimes only ask that they be there."""


@dataclass(frozen=True, kw_only=True)
class Userland:
    """What ``deploy/setup/arm64.sh`` made."""

    folder: Path

    @property
    def qemu(self) -> Path:
        return self.folder / "qemu-aarch64"

    @property
    def python(self) -> Path:
        return self.folder / "root/usr/bin" / (self.folder / "python").read_text().strip()

    @property
    def site(self) -> Path:
        return self.folder / "site"


def userland(root: Path) -> Userland:
    """The userland, or a skip that says why there is none."""
    made = Userland(folder=Path(os.environ.get("ARM64_USERLAND", root / ".make/arm64")).absolute())
    if not (made.folder / "ready").exists():
        why = made.folder / "why"
        said = why.read_text().strip() if why.exists() else "it was not made; run: make arm64"
        pytest.skip(f"no arm64 userland to run agents in: {said}")
    return made


@dataclass(frozen=True, kw_only=True)
class Board:
    """A folder that is an arm64 board, and the Python that runs on it."""

    root: Path
    userland: Userland

    @property
    def python(self) -> Path:
        """A program like any other interpreter: it finds itself by the name it was called by, so
        that workers, which are started as ``sys.executable``, run on the board as well.
        """
        return self.root / "python"

    def environment(self, root: Path, base: Mapping[str, str]) -> dict[str, str]:
        """Variables under which the agent of this working tree is importable there."""
        path = (root, root / "protos", self.userland.site)
        return {**base, "PYTHONPATH": os.pathsep.join(map(str, path))}


def make(userland: Userland, board: str, into: Path) -> Board:
    """A board from a shipped archive; ``into`` must be free."""
    boards.unpack(board, into)
    for name in ("usr", "lib", "bin"):
        (into / name).symlink_to(userland.folder / "root" / name)
    _describe_cores(into)
    made = Board(root=into, userland=userland)
    words = (userland.qemu, "-cpu", CPU, "-L", into, userland.python)
    qemu, *rest = (shlex.quote(str(word)) for word in words)
    made.python.write_text(f'#!/bin/sh\nexec {qemu} -0 "$0" {" ".join(rest)} "$@"\n')
    made.python.chmod(0o755)
    return made


def _describe_cores(root: Path) -> None:
    """Caches and topology of each core: onnxruntime looks for them, and would find the host's."""
    cpus = root / "sys/devices/system/cpu"
    present = (cpus / "present").read_text()
    (cpus / "possible").write_text(present)
    for core in range(int(present.rpartition("-")[2]) + 1):
        _write(cpus / f"cpu{core}/topology", core_id=core, physical_package_id=0,
               core_siblings_list=present.strip(), thread_siblings_list=core)  # fmt: skip
        for index, (kind, level, size) in enumerate(_CACHES):
            _write(cpus / f"cpu{core}/cache/index{index}", type=kind, level=level,
                   size=f"{size // 1024}K", shared_cpu_list=core, coherency_line_size=64,
                   ways_of_associativity=4, number_of_sets=size // 256)  # fmt: skip


def _write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
