"""A stock ``tritonclient`` in an environment of its own: its protobuf is older than ours."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

CLIENT = "tritonclient[grpc]==2.73.0"


def home() -> Path:
    """Where the environment is, or will be: in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "fitment" / "tools" / CLIENT.replace("[grpc]==", "-")


def python() -> Path | None:
    """Its interpreter; None where it was not made."""
    return home() / "bin" / "python" if (home() / "ready").exists() else None


def made(say: Callable[[str], None]) -> Path:
    """Its interpreter, made when it is missing."""
    if python() is None:
        say(f"making the client's environment in {home()}")
        venv.create(home(), with_pip=True, clear=True)
        pip = [str(home() / "bin" / "python"), "-m", "pip", "install", "--quiet", CLIENT]
        subprocess.run(pip, check=True)
        (home() / "ready").touch()
    return home() / "bin" / "python"
