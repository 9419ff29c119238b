"""Follows a slot's link: when it leads elsewhere, what is there is loaded and takes over."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from agent.slots import OVERLAY
from agent.workers.child import JobError
from agent.workers.serving.service import Service
from fitment.core.bundle import MANIFEST_NAME

LOOK_S: Final = 0.2
"""Between looks at the link; a read of a link costs microseconds."""
RETRY_S: Final = 5.0
"""After a bundle that could not be loaded, unless the link moves on before."""


class Place(NamedTuple):
    """What serves."""

    folder: str
    overlay: str  # path, empty when it is pristine
    stamp: tuple[int, ...] = ()  # of the manifest and the overlay: a folder may be filled anew


def resolve(link: str) -> Place:
    """Where the link leads now: resolved, so that a switch cannot mix two bundles.

    Raises:
        JobError: ``slot_empty``; nothing serves in this slot.
    """
    folder = Path(os.path.realpath(link))
    if not folder.is_dir():
        raise JobError(
            "slot_empty", f"{link} leads to no bundle: nothing was committed in this slot yet"
        )
    overlay = folder / OVERLAY
    stamp = (*_stamp(folder / MANIFEST_NAME), *_stamp(overlay))
    return Place(str(folder), str(overlay) if overlay.exists() else "", stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns


def until(stopping: threading.Event, service: Service, link: str, at: Place) -> None:
    """Swap whenever the link leads elsewhere than ``at``; returns when ``stopping`` is set.

    A bundle that cannot be loaded, or is cleared away meanwhile, leaves the old one serving.
    """
    failed: Place | None = None
    again_s = 0.0
    while not stopping.wait(LOOK_S):
        try:
            wanted = resolve(link)
            if wanted == at or (wanted == failed and time.monotonic() < again_s):
                continue
            failed, again_s = wanted, time.monotonic() + RETRY_S
            service.swap(wanted.folder, wanted.overlay)
        except JobError as error:
            sys.stderr.write(f"action=follow code={error.code} reason={error.message}\n")
            continue
        at, failed = wanted, None
