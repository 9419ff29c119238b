"""A leashed program runs as itself, and not at all once its parent has gone."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest

from controller.gateway import leash

LIMITS = ["/bin/sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)"]
WHO = ["/bin/sh", "-c", "echo $(id -u) $(id -g) $$"]


def test_the_program_takes_the_place_of_the_launcher() -> None:
    started = subprocess.Popen(leash.command(WHO), stdout=subprocess.PIPE, text=True)
    said, _ = started.communicate(timeout=20)
    assert said.split() == [str(os.getuid()), str(os.getgid()), str(started.pid)]


def test_it_may_open_as_many_files_as_is_allowed_at_all() -> None:
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (own[0] // 2, own[1]))
    try:
        started = subprocess.Popen(leash.command(LIMITS), stdout=subprocess.PIPE, text=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, own)
    told, _ = started.communicate(timeout=20)
    assert told.split() == [str(own[1])] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_becomes_its_owner_first() -> None:
    started = subprocess.Popen(
        leash.command(WHO, owner=(65534, 65533)), stdout=subprocess.PIPE, text=True
    )
    said, _ = started.communicate(timeout=20)
    assert said.split()[:2] == ["65534", "65533"]


def test_an_orphan_is_not_run() -> None:
    """The parent was killed after the fork and before the kernel was asked."""
    command = leash.command(WHO)
    command[4] = str(os.getppid())
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (leash.EXIT_ORPHAN, "")
