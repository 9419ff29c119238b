"""What bad input is thrown at: a good workload, a real controller, and what must not change."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller import cli
from tests.integration.test_serve import Running, start
from tests.integration.worker_models import onnx_affine

GOOD = textwrap.dedent(
    """
    import numpy as np

    name = "tiny"
    version = "1"
    input_shape = (4,)
    labels = ["a", "b", "c"]
    files = ["model.onnx"]
    budget = {"accuracy_drop_max": 0.05}

    def source():
        return "model.onnx"

    def data(split):
        seed = {"train": 0, "calibration_a": 1, "calibration_b": 2, "test": 3}[split]
        random = np.random.default_rng(seed)
        inputs = random.normal(size=(64, 4)).astype(np.float32)
        answers = inputs[:, :3].argmax(axis=1)
        return inputs, answers

    def metric(outputs, labels):
        return float((outputs.argmax(axis=1) == labels).mean())
    """
)
TEMPORARY = (".part", ".new", ".tmp", ".incoming-", ".snapshot-", ".json.")
"""Parts of names that only unfinished files have."""


def write_workload(
    folder: Path,
    *swaps: tuple[str, str],
    extra: str = "",
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """The good workload with parts of it swapped; gives its file."""
    text = GOOD
    for old, new in swaps:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in {"model.onnx": onnx_affine(), **(files or {})}.items():
        (folder / name).write_bytes(data)
    path = folder / "workload.py"
    path.write_text(text + textwrap.dedent(extra))
    return path


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    error: str  # the one line of it, without the program's name


class Terminal:
    """Runs ``fitment`` in this process and reads what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str) -> Said:
        self._capsys.readouterr()
        code = cli.run(arguments)
        out, error = self._capsys.readouterr()
        return Said(code=code, out=out, error=error)

    def refused(self, *arguments: str, code: int = cli.USER_ERROR) -> str:
        """The one line by which a command was refused."""
        said = self.run(*arguments)
        assert said.code == code, said
        return one_line(said.error, "fitment")


def one_line(text: str, program: str) -> str:
    """A message is one line for people: the program, what, and no traceback."""
    assert text.startswith(f"{program}: "), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.removeprefix(f"{program}: ").rstrip("\n")


@contextmanager
def serving(data_dir: Path, root: Path) -> Iterator[Running]:
    """A real controller on loopback, as a process."""
    running = start(data_dir, root, "--link", "grpc")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            assert running.stop() == 0


def kept(data_dir: Path) -> dict[str, int]:
    """Files of a data directory and their sizes; the database's log and the log may grow."""
    growing = ("log", "fitment.db-wal", "fitment.db-shm", "fitment.db")
    return {
        path.relative_to(data_dir).as_posix(): path.stat().st_size
        for path in sorted(data_dir.rglob("*"))
        if path.is_file() and path.name not in growing
    }


def unfinished(folder: Path) -> list[str]:
    """Files that somebody began and did not finish."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if any(part in name for part in TEMPORARY)]


def records(running: Running) -> str:
    """Everything that the controller remembers and an operator can see."""
    with running.client() as client:
        shown = (client.models(), client.devices(), client.fits(), client.releases())
        audit = [(entry.action, entry.subject) for entry in client.audit()]
    return json.dumps([repr(shown), audit])


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real file system that is small; to mount one needs root, or sudo without a password."""
    folder.mkdir(parents=True, exist_ok=True)
    problem = _as_root("mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(folder))
    if problem:
        pytest.skip(f"no small disk can be mounted here: {problem}")
    try:
        yield folder
    finally:
        assert _as_root("umount", "-l", str(folder)) == ""


def grow(disk: Path, size: str) -> None:
    """Give a small disk more room."""
    assert _as_root("mount", "-o", f"remount,size={size}", str(disk)) == ""


def remount(disk: Path, mode: str) -> None:
    """Make a small disk read-only (``ro``), or writable again (``rw``)."""
    assert _as_root("mount", "-o", f"remount,{mode}", str(disk)) == ""


def _as_root(*command: str) -> str:
    """Run it; what went wrong, or nothing."""
    words = command if os.geteuid() == 0 else ("sudo", "-n", *command)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


@contextmanager
def full(disk: Path, *, but: int = 0) -> Iterator[None]:
    """Nothing more than ``but`` bytes goes onto the disk while the block runs."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - but)
    try:
        yield
    finally:
        filler.unlink()
