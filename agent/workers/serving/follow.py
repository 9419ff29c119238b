"""Follows a slot's link: when it leads elsewhere, what is there is loaded and takes over.

While a lesser variant is to serve, the supervisor lays a link ``rung`` beside the slot's own. Both
lead to bundles that were checked, and either may lead nowhere.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from agent.domain.rungs import parted, rung_slot
from agent.slots import ACTIVE, OVERLAY, RUNG
from agent.workers.child import JobError
from agent.workers.serving.service import Service
from fitment.core.bundle import MANIFEST_NAME

LOOK_S: Final = 0.2
"""Between looks at the link; a read of a link costs microseconds."""
RETRY_S: Final = 5.0
"""After a bundle that could not be loaded, unless the link moves on before; then twice as long."""
MOST_RETRY_S: Final = 300.0
_MOST_WORDS: Final = 2000


class Place(NamedTuple):
    """What serves."""

    folder: str
    overlay: str  # path, empty when it is pristine
    stamp: tuple[int, ...] = ()  # of the manifest and the overlay: a folder may be filled anew


def resolve(link: str) -> Place:
    """Where the slot leads now: resolved, so that a switch cannot mix two bundles.

    Raises:
        JobError: ``slot_empty``; nothing serves in this slot.
    """
    places = [place for path in (Path(link).with_name(RUNG), Path(link)) if (place := _at(path))]
    if not places:
        raise JobError(
            "slot_empty", f"{link} leads to no bundle: nothing was committed in this slot yet"
        )
    return places[0]


def others(link: str, place: Place) -> Iterator[Place]:
    """What else could serve in the slot: the chosen variant, then its rungs from first to last.

    For the start alone, after an update of the system that ``place`` did not outlive: later, what
    is loaded goes on until the supervisor has chosen.
    """
    slot = Path(link).parent
    names = sorted(slot.parent.glob(f"{slot.name}~*"), key=lambda path: parted(path.name))
    rungs = [path / ACTIVE for path in names if path.name == rung_slot(*parted(path.name))]
    for path in (Path(link), *rungs):
        found = _at(path)
        if found is not None and found.folder != place.folder:
            yield found


def _at(link: Path) -> Place | None:
    folder = Path(os.path.realpath(link))
    if not (link.is_symlink() and folder.is_dir()):
        return None
    overlay = folder / OVERLAY
    stamp = (*_stamp(folder / MANIFEST_NAME), *_stamp(overlay))
    return Place(str(folder), str(overlay) if overlay.exists() else "", stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns


def until(
    stopping: threading.Event, service: Service, link: str, at: Place, failed: Place | None
) -> None:
    """Swap whenever the link leads elsewhere than ``at``; returns when ``stopping`` is set.

    A bundle that cannot be loaded, or is cleared away meanwhile, leaves the old one serving.
    ``failed`` is what could not be loaded at the start.
    """
    again_s, pause_s = time.monotonic() + RETRY_S, RETRY_S
    while not stopping.wait(LOOK_S):
        try:
            wanted = resolve(link)
            if wanted == at:
                service.refused = None
                continue
            if wanted == failed and time.monotonic() < again_s:
                continue
            pause_s = min(MOST_RETRY_S, 2 * pause_s) if wanted == failed else RETRY_S
            failed, again_s = wanted, time.monotonic() + pause_s
            service.swap(wanted.folder, wanted.overlay)
        except JobError as error:
            service.refused = refusal(failed, error)
            sys.stderr.write(f"action=follow code={error.code} reason={error.message}\n")
            continue
        at, failed, service.refused = wanted, None, None


def refusal(place: Place | None, error: JobError) -> Mapping[str, str]:
    """What is told in ``stats`` of a bundle that could not take over."""
    folder = place.folder if place is not None else ""
    return {"folder": folder, "code": error.code, "message": error.message[:_MOST_WORDS]}
