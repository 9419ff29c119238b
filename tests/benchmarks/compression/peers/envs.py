"""One environment a peer, built from its locked requirement file; never a dependency of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
TRIES_S = 3600.0


class Unavailable(Exception):
    """A peer cannot be installed or does not run here; says why."""


def python(work: Path, environment: str) -> Path:
    """The interpreter of an environment, built when first asked for.

    Raises:
        Unavailable: with the last lines of pip's answer.
    """
    folder = work / "venvs" / environment
    done = folder / "installed.txt"
    wanted = (REQUIREMENTS / f"{environment}.txt").read_text()
    interpreter = folder / "bin" / "python"
    if done.is_file() and done.read_text() == wanted:
        return interpreter
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
    asked = [str(interpreter), "-m", "pip", "install", "--no-compile", "--no-deps", "-r"]
    answer = subprocess.run(
        [*asked, str(REQUIREMENTS / f"{environment}.txt")],
        capture_output=True,
        text=True,
        timeout=TRIES_S,
        check=False,
    )
    if answer.returncode:
        raise Unavailable("; ".join(answer.stderr.strip().splitlines()[-3:]))
    done.write_text(wanted)
    return interpreter


def quiet_environment() -> dict[str, str]:
    """One thread for everybody."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1"), "CUDA_VISIBLE_DEVICES": ""}
