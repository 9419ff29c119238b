"""``python -m controller`` and the console script ``fitment``."""

from __future__ import annotations

import importlib.util
import sys


def main() -> int:
    """Say what is missing before anything is imported, then run the command line."""
    if sys.version_info < (3, 11):
        print("fitment: the controller needs Python 3.11 or newer", file=sys.stderr)
        return 2
    missing = [n for n in ("typer", "rich", "sqlmodel") if importlib.util.find_spec(n) is None]
    if missing:
        names = ", ".join(missing)
        print(f"fitment: {names} missing: pip install 'fitment[controller]'", file=sys.stderr)
        return 2
    from controller.cli import run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
