"""Whether there is memory for a model before it is loaded: by the machine, and by its cgroup.

The kernel's own answer to too little is to kill somebody, and on a device that may be what serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.workers.child import JobError

_MIB = 1024 * 1024
_RUNTIME_BYTES = 48 * _MIB  # a runtime beside its model; onnxruntime 1.23 took 30 to 40 on x86-64
_RETRY_S = 30.0
_LIMITS = (
    ("0::", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("memory:", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file"),
)  # fmt: skip
"""Of both versions of cgroups: whose line it is, where, and the files; from the kernel's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes; None where the system does not tell."""

    total: int | None = None  # that there could ever be
    free: int | None = None  # without pressing anybody


def needed_bytes(artifact_bytes: int) -> int:
    """An estimate from below: the file, its weights once more as a runtime lays them out."""
    return 2 * artifact_bytes + _RUNTIME_BYTES


def require(needs: int, room: Room, *, limit_bytes: int | None = None) -> None:
    """Refuse before anything is loaded.

    Raises:
        JobError: ``memory_never``, for good, where it can never fit; ``memory_short``, which burns
            no attempt, while it does not fit now.
    """
    totals = [n for n in (room.total, limit_bytes) if n is not None]
    about = f"loading it takes about {_mib(needs)} (estimated: its file twice, and the runtime)"
    if totals and needs > min(totals):
        raise JobError(
            "memory_never",
            f"{about}, and this device has {_mib(min(totals))} for it: choose a smaller variant,"
            " or raise the limit on memory",
            permanent=True,
        )
    if room.free is not None and needs > room.free:
        raise JobError(
            "memory_short",
            f"{about}, and {_mib(room.free)} are free: it waits until others give some back",
            retry_after_s=_RETRY_S,
        )


def read(root: str = "/") -> Room:
    """The smaller of what the machine and each cgroup above this process have."""
    machine = _fields(Path(root, "proc/meminfo"), unit=1024)
    rooms = [Room(total=machine.get("MemTotal"), free=machine.get("MemAvailable"))]
    rooms += _cgroups(Path(root))
    totals = [room.total for room in rooms if room.total is not None]
    free = [room.free for room in rooms if room.free is not None]
    return Room(total=min(totals, default=None), free=min(free, default=None))


def _cgroups(root: Path) -> Iterator[Room]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        for key, place, most, used, cache in _LIMITS:
            _, found, path = line.partition(key if key == "0::" else f":{key}")
            if not found or (key == "0::" and not line.startswith(key)):
                continue
            top = root / place
            folder = top / path.lstrip("/")
            for each in (folder, *folder.parents):
                if each.is_relative_to(top):
                    yield _limit(each, most, used, cache)


def _limit(folder: Path, most: str, used: str, cache: str) -> Room:
    limit, usage = _text(folder / most).strip(), _text(folder / used).strip()
    if not (limit.isdigit() and usage.isdigit()):
        return Room()  # "max", or no such file
    reclaimable = _fields(folder / "memory.stat").get(cache, 0)
    return Room(total=int(limit), free=max(0, int(limit) - int(usage) + reclaimable))


def _fields(path: Path, *, unit: int = 1) -> dict[str, int]:
    """Lines of a name and a number, with or without a colon."""
    rows = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) * unit for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _mib(count: int) -> str:
    return f"{count / _MIB:.0f} MiB"
