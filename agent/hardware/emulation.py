"""Whether an emulator carries out this device's instructions, and on what machine.

A user-mode emulator (qemu-user, box64, FEX, Rosetta) answers ``uname`` for the machine that it
plays, and rewrites ``/proc/self/exe``. It does not rewrite the same link under
``/proc/thread-self``: there the kernel names the program that it really runs, the emulator, and
the header of that file says for which processor it was built.
"""

from __future__ import annotations

import struct
from pathlib import Path

from agent.hardware import linux
from agent.sysfs import Tree

EMULATION_MARK = "etc/fitment-emulated"
"""A file that the root of a whole emulated system carries, whose kernel tells nothing."""

_PROGRAM = Path("/proc/thread-self/exe")
_ELF_MACHINES = {
    # e_machine of the ELF header, from the System V ABI's registry
    3: "i686", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "armv7l", 62: "x86_64",
    183: "aarch64", 243: "riscv64", 258: "loongarch64",
}  # fmt: skip
_HEADER_BYTES = 20


def translated_on(tree: Tree, machine: str) -> str:
    """The machine on which instructions are translated; ``unknown`` where only a mark says so.

    Args:
        tree: the device's files.
        machine: what ``uname`` says of this process; empty when ``tree`` is another device's.

    Returns:
        Empty on a device that is what it says.
    """
    marked = not tree.problem(EMULATION_MARK)
    for host in (_program_machine() if machine else "", linux.cpuinfo_machine(tree)):
        if machine and host and family(machine) != family(host):
            return host
    return "unknown" if marked else ""


def _program_machine() -> str:
    """For what the program was built that the kernel runs as this process; empty: it hides it."""
    try:
        with _PROGRAM.open("rb") as file:
            return elf_machine(file.read(_HEADER_BYTES))
    except OSError:
        return ""


def elf_machine(header: bytes) -> str:
    """The machine of an ELF file from its first 20 bytes; empty when it is none that is known."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return ""
    order = ">" if header[5] == 2 else "<"
    return _ELF_MACHINES.get(struct.unpack_from(f"{order}H", header, 18)[0], "")


def family(machine: str) -> str:
    """Machines that carry out each other's instructions natively are one family."""
    if machine.startswith(("arm", "aarch")):
        return "arm"
    for kind in ("ppc", "mips"):  # uname says which width and order, the program only the kind
        if machine.startswith(kind):
            return kind
    return "x86" if machine in ("x86_64", "i386", "i486", "i586", "i686") else machine
