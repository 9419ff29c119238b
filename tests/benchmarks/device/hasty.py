"""An agent whose loop and whose tidying go ten times as often: 10,000 batches in twenty minutes.

All else is the agent that ``fitment-agent run`` starts, with the same modules at the same time.
"""

from __future__ import annotations

from typing import Final

from agent import thin

TIMES: Final = 10


def main() -> int:
    """As `agent.__main__`."""
    thin.prepare()
    from agent import cli, loop, tidy

    vars(loop)["IDLE_S"] = loop.IDLE_S / TIMES
    vars(tidy)["INTERVAL_S"] = tidy.INTERVAL_S / TIMES
    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
