"""Boards from text archives, unpacked into a folder, and time that a test moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.hardware import boards

Unpack = Callable[[str], Path]


class FakeTime:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


class Vcgencmd:
    """Answers like the Raspberry Pi's tool, from files below ``vcgencmd/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, command: Sequence[str]) -> str | None:
        path = self.root / "vcgencmd" / command[-1]
        return path.read_text() if command[0] == "vcgencmd" and path.exists() else None


@pytest.fixture
def unpack(root: Path, tmp_path: Path) -> Unpack:
    """Unpacks ``tests/fixtures/boards/<name>.tree``."""

    def unpack(name: str) -> Path:
        path = root / "tests/fixtures/boards" / f"{name}.tree"
        return boards.unpack_archive(boards.parse(path.read_text(), name), tmp_path / name)

    return unpack


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def vcgencmd() -> Callable[[Path], Vcgencmd]:
    return Vcgencmd
