"""``fitment``: says what is missing before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import sys

NEEDED = ("typer", "rich", "httpx")


def main() -> int:
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        print(
            f"fitment needs Python 3.11 or newer, this is {found}."
            " Agents run on 3.10: use fitment-agent.",
            file=sys.stderr,
        )
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"fitment: {', '.join(missing)} not installed. Run: pip install 'fitment[controller]'"
            "  (a device needs fitment-agent only)",
            file=sys.stderr,
        )
        return 2
    from controller.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
