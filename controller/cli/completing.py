"""What the shell completes: names that the controller knows, asked for as quietly as can be.

A completion never fails and never waits for long: where no controller answers, there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.common import DEFAULT_DATA_DIR, connect
from controller.errors import FitmentError

if TYPE_CHECKING:
    from controller.client import Client


def complete_devices(incomplete: str) -> list[str]:
    """Names of devices."""
    return _asked(incomplete, lambda client: (device.name for device in client.devices()))


def complete_applicants(incomplete: str) -> list[str]:
    """Names of devices that ask to be let in."""
    return _asked(incomplete, lambda client: (one.name for one in client.applicants() if one.waits))


def complete_groups(incomplete: str) -> list[str]:
    """Names of groups."""
    return _asked(incomplete, lambda client: (group.name for group in client.groups()))


def complete_rollouts(incomplete: str) -> list[str]:
    """Ids of rollouts, newest first."""
    return _asked(incomplete, lambda client: (made.id for made in reversed(client.rollouts())))


def complete_releases(incomplete: str) -> list[str]:
    """Ids of releases, newest first."""
    return _asked(incomplete, lambda client: (made.id for made in reversed(client.releases())))


def _asked(incomplete: str, names: Callable[[Client], Iterable[str]]) -> list[str]:
    server = os.environ.get("FITMENT_SERVER", "")
    data_dir = Path(os.environ.get("FITMENT_DATA_DIR", "") or DEFAULT_DATA_DIR)
    try:
        with connect(server, data_dir) as client:
            return [name for name in names(client) if name.startswith(incomplete)]
    except FitmentError:
        return []
