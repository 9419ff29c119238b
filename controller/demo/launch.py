"""Run a module as a program that ends when whoever started it ends, even by SIGKILL.

    python -m controller.demo.launch MODULE [ARGUMENT …]

The wish to end survives ``exec``, so the program itself loads nothing more than by hand: what a
supervisor takes of memory here is what it takes on a device.
"""

from __future__ import annotations

import os
import sys

from controller.catalog.process import die_with_parent


def main() -> None:
    """Become the program."""
    die_with_parent()
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606 - that is the point


if __name__ == "__main__":
    main()
