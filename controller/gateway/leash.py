"""Become another program, which ends when its parent does. Run as a file, so that it is quick.

    python -I -S leash.py PARENT_PID UID:GID|- PROGRAM ARGUMENT...

The kernel signals the end of the *thread* that started a process. A parent that ended before the
kernel was told is noticed by the process id, and the program is not run at all. Changing the user
clears the request, so that comes first; a program that changes it later is let off the leash.
It may open as many files as is allowed at all: a broker needs one a device, and 1,024 is usual.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
EXIT_ORPHAN = 4


def command(program: list[str], *, owner: tuple[int, int] | None = None) -> list[str]:
    """How to start ``program`` on a leash that the calling thread holds."""
    whom = "-" if owner is None else f"{owner[0]}:{owner[1]}"
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), whom, *program]


def run(argv: list[str]) -> None:
    """Take the words after the script's name; returns only when the parent has gone."""
    parent, whom, program = int(argv[0]), argv[1], argv[2:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if whom != "-":
        user, group = (int(number) for number in whom.split(":"))
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == parent:
        os.execv(program[0], program)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    run(sys.argv[1:])
    sys.exit(EXIT_ORPHAN)
