"""A stock ``tritonclient`` in an environment of its own: its protobuf is older than ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

CLIENT = "tritonclient[grpc]==2.73.0"
LIMIT_S = 120.0
"""For pip: some 30 MB."""


def home() -> Path:
    """Where the environment is, or will be: in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "fitment" / "tools" / CLIENT.replace("[grpc]==", "-")


def python() -> Path | None:
    """Its interpreter; None where it was not made."""
    return home() / "bin" / "python" if (home() / "ready").exists() else None


def why_not() -> str:
    """Why it was not made, in words."""
    why = home() / "why"
    return why.read_text() if why.exists() else "`python -m tests.benchmarks.stock_client` makes it"


def made(say: Callable[[str], None]) -> Path:
    """Its interpreter, made when it is missing.

    Raises:
        OSError: it cannot be made.
        subprocess.SubprocessError: pip does not find or install the client; `why_not` says why.
    """
    if python() is None:
        say(f"making the client's environment in {home()}")
        try:
            venv.create(home(), with_pip=True, clear=True)
            command = [str(home() / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            command += ["--no-compile", "--disable-pip-version-check", CLIENT]
            subprocess.run(command, check=True, timeout=LIMIT_S, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            home().mkdir(parents=True, exist_ok=True)
            said = str(getattr(error, "stderr", "") or error).strip()
            (home() / "why").write_text(said.splitlines()[-1] if said else repr(error))
            raise
        (home() / "ready").touch()
    return home() / "bin" / "python"


def main() -> int:
    """Make it for the tests; where that cannot be, they are skipped and say why."""
    began = time.monotonic()
    try:
        there = python() is not None
        made(lambda text: print(f"== Stock client: {text}", flush=True))
    except (OSError, subprocess.SubprocessError):
        print(f"== No stock client: {why_not()}\n   its test is skipped")
    else:
        if not there:
            print(f"   done in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
