"""Boards from text archives, unpacked into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.hardware import boards

Unpack = Callable[[str], Path]


@pytest.fixture
def unpack(root: Path, tmp_path: Path) -> Unpack:
    """Unpacks ``tests/fixtures/boards/<name>.tree``."""

    def unpack(name: str) -> Path:
        path = root / "tests/fixtures/boards" / f"{name}.tree"
        return boards.unpack_archive(boards.parse(path.read_text(), name), tmp_path / name)

    return unpack
