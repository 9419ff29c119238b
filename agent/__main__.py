"""``python -m agent`` and the console script ``fitment-agent``."""

from __future__ import annotations

from agent import thin


def main() -> int:
    """Make room first: what is imported before counts for as long as the agent runs."""
    thin.prepare()
    from agent.cli import main as command

    return command()


if __name__ == "__main__":
    raise SystemExit(main())
