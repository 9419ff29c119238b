"""The time zone that a device is set to."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from agent.hardware import android
from agent.sysfs import DiskTree, Run, Tree, run_command, text

_FOLDER: Final = "zoneinfo/"
_NOWHERE: Final = frozenset(
    {"UTC", "UCT", "GMT", "Zulu", "Universal", "Greenwich", "Factory"}
)  # also below Etc/
"""What images come with: it says nothing of where a device is."""


def read_zone(root: Path | str, run: Run = run_command) -> str:
    """IANA name, such as ``Europe/Berlin``; empty where the device is set to none, or to UTC.

    Args:
        root: prefix of ``/etc``.
        run: starts vendor tools.
    """
    tree: Tree = DiskTree(root)
    named = _link(Path(root) / "etc/localtime") or text(tree, "etc/timezone") or ""
    if not named and android.present(tree):
        named = _android(run)
    return "" if named.removeprefix("Etc/") in _NOWHERE else named


def _link(path: Path) -> str:
    """The zone that a link such as ``/usr/share/zoneinfo/Europe/Berlin`` names."""
    try:
        target = str(path.readlink())
    except OSError:
        return ""
    return target.partition(_FOLDER)[2].removeprefix("posix/").removeprefix("right/")


@functools.lru_cache(maxsize=1)
def _android(run: Run) -> str:
    """Asked once a process: it starts another one."""
    return (run(("/system/bin/getprop", "persist.sys.timezone")) or "").strip()
