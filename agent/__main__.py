"""``python -m agent`` and the console script ``fitment-agent``."""

from __future__ import annotations

from agent.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
