"""What the kernel counts of one process: its memory, and what it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.sysfs import DiskTree, text


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Bytes; None with a reason where the kernel does not tell."""

    anonymous_bytes: int | None
    pss_bytes: int | None  # shared pages divided among their users
    reason: str = ""


def written_bytes(root: Path | str = "/") -> int | None:
    """What this process and its children that have ended sent to the disk since they began.

    ``write_bytes`` of ``/proc/self/io`` (proc(5)): pages that were made dirty, so that what a file
    system adds of its own is not in it. None where the kernel keeps no account.
    """
    for line in (text(DiskTree(root), "proc/self/io") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "write_bytes" and value.strip().isdigit():
            return int(value)
    return None


def process_memory(pid: int, root: Path | str = "/") -> ProcessMemory:
    """Read anonymous and proportional bytes of ``pid``."""
    tree, path = DiskTree(root), f"proc/{pid}/smaps_rollup"
    content = text(tree, path)
    if content is None:
        reason = f"/{path}: {tree.problem(path) or 'cannot be read'}"
        return ProcessMemory(anonymous_bytes=None, pss_bytes=None, reason=reason)
    sizes = {}
    for line in content.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2] == "kB" and fields[1].isdigit():
            sizes[fields[0].rstrip(":")] = int(fields[1]) * 1024
    return ProcessMemory(anonymous_bytes=sizes.get("Anonymous"), pss_bytes=sizes.get("Pss"))
