"""Slots: two folders a model and an atomic switch.

``slots/<slot>/{a,b}`` hold bundles, ``slots/<slot>/active`` is a relative symbolic link to the
one that serves. A reader who follows the link sees the old bundle or the new one, whatever
moment the power goes. The committed folder is never written to.

``facts.json`` beside them says what was committed, so that a lost journal loses no counter. While
a lesser variant serves, ``slots/<slot>/rung`` leads to the link of the rung's own slot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent import durable
from agent.domain import rungs
from agent.domain.plan import safe_name
from agent.domain.record import SlotFacts
from agent.errors import SlotError
from fitment.core import digest, plain
from fitment.core.bundle import MANIFEST_NAME

FOLDERS: Final = ("a", "b")
ACTIVE: Final = "active"
OVERLAY: Final = "overlay.json"
RUNG: Final = "rung"
CHOSEN: Final = "chosen.json"
"""A slot's copy of its chosen variant's manifest: rungs are known by it when that one is gone."""
_FACTS: Final = "facts.json"


def spare(last_good: str) -> str:
    """Letter of the folder that may be written to: never the last good one."""
    return "b" if last_good == "a" else "a"


class Slots:
    """All slots of one device. Not for several processes at once: the supervisor is the writer."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> tuple[str, ...]:
        """Slots that exist on disk, sorted."""
        if not self._root.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self._root.iterdir() if entry.is_dir()))

    def folder(self, slot: str, letter: str) -> Path:
        """Path of folder ``a`` or ``b``; it need not exist."""
        if letter not in FOLDERS:
            raise SlotError(f"a slot has folders a and b, not {letter!r}")
        return self._slot(slot) / letter

    def link(self, slot: str) -> Path:
        """Path of the link that applications follow."""
        return self._slot(slot) / ACTIVE

    def active(self, slot: str) -> str:
        """Letter of the folder that serves, or empty."""
        try:
            letter = os.readlink(self.link(slot))  # noqa: PTH115 - the text itself is wanted
        except OSError:
            return ""
        return letter if letter in FOLDERS and self.folder(slot, letter).is_dir() else ""

    def prepare(self, slot: str) -> None:
        """Make the slot's folder."""
        with _disk_errors(f"making slot '{slot}'"):
            durable.make_folder(self._slot(slot))

    def switch(self, slot: str, letter: str) -> None:
        """Let ``letter`` serve. Atomic and durable when it returns.

        Raises:
            SlotError: the folder is not there, or the disk refuses.
        """
        if not self.folder(slot, letter).is_dir():
            raise SlotError(f"slot '{slot}' has no folder '{letter}' to switch to")
        if self.active(slot) == letter:
            return
        with _disk_errors(f"switching slot '{slot}'"):
            durable.point(self.link(slot), letter)

    def deactivate(self, slot: str) -> None:
        """Let nothing serve."""
        with _disk_errors(f"clearing slot '{slot}'"):
            durable.remove(self.link(slot))
            if self._slot(slot).is_dir():
                durable.sync_folder(self._slot(slot))

    def rung(self, slot: str) -> int:
        """The rung that serves; 0 while there is no link to another."""
        try:
            target = os.readlink(self._slot(slot) / RUNG)  # noqa: PTH115 - the text itself is wanted
        except OSError:
            return 0
        name, rung = rungs.parted(Path(target).parent.name)
        return rung if name == slot else 0

    def stand(self, slot: str, rung: int) -> None:
        """Let a rung serve. Atomic and durable when it returns.

        Raises:
            SlotError: nothing is active in the rung's slot, or the disk refuses.
        """
        if self.rung(slot) == rung:
            return
        link = self._slot(slot) / RUNG
        with _disk_errors(f"changing the rung of slot '{slot}'"):
            if not rung:
                durable.remove(link)
                durable.sync_folder(link.parent)
                return
            name = rungs.rung_slot(slot, rung)
            if not self.active(name):
                raise SlotError(f"rung {rung} of slot '{slot}' holds nothing to serve")
            durable.point(link, f"../{name}/{ACTIVE}")

    def remove(self, slot: str) -> None:
        """Take a rung's slot away with all that is in it; the one that serves stays.

        Raises:
            SlotError: it serves, or it is no rung's.
        """
        name, rung = rungs.parted(slot)
        if not rung or self.rung(name) == rung:
            raise SlotError(f"slot '{slot}' serves and is not taken away")
        with _disk_errors(f"taking slot '{slot}' away"):
            durable.remove_tree(self._slot(slot))

    def clear(self, slot: str, letter: str) -> None:
        """Empty a folder that does not serve.

        Raises:
            SlotError: it serves.
        """
        if self.active(slot) == letter:
            raise SlotError(f"folder '{letter}' of slot '{slot}' serves and is not cleared")
        durable.remove_tree(self.folder(slot, letter))

    def overlay(self, slot: str, letter: str) -> Path:
        """Where the overlay of a folder is, when it was calibrated."""
        return self.folder(slot, letter) / OVERLAY

    def write_facts(self, facts: SlotFacts) -> None:
        """Say beside the folders what was committed."""
        with _disk_errors(f"writing the facts of slot '{facts.slot}'"):
            durable.write(
                self._slot(facts.slot) / _FACTS, json.dumps(plain.to_plain(facts)).encode()
            )

    def keep_manifest(self, slot: str, letter: str) -> None:
        """Lay a copy of a folder's manifest beside the folders."""
        with _disk_errors(f"keeping the manifest of slot '{slot}'"):
            content = (self.folder(slot, letter) / MANIFEST_NAME).read_bytes()
            durable.write(self._slot(slot) / CHOSEN, content)

    def restore(self, slot: str) -> SlotFacts:
        """What is on disk, for a journal that was lost; the link goes back to the last good one.

        Nothing counts as checked, so the goldens are answered again before it serves.
        """
        facts = self.read_facts(slot)
        letter = self.active(slot)
        if facts.last_good and self.folder(slot, facts.last_good).is_dir():
            self.switch(slot, facts.last_good)
        elif letter:
            facts = replace(self._identify(slot, letter), counter=facts.counter)
        else:
            facts = SlotFacts(slot=slot, counter=facts.counter)
        return replace(facts, checked_stack="", golden_ok=None)

    def read_facts(self, slot: str) -> SlotFacts:
        """What was said beside the folders; empty facts where that cannot be read."""
        try:
            data = (self._slot(slot) / _FACTS).read_bytes()
            facts = plain.from_plain(SlotFacts, json.loads(data))
        except (OSError, ValueError):
            return SlotFacts(slot=slot)
        return facts if facts.slot == slot else SlotFacts(slot=slot)

    def _identify(self, slot: str, letter: str) -> SlotFacts:
        """Name a bundle by what it is: the digest of its manifest."""
        try:
            data = (self.folder(slot, letter) / MANIFEST_NAME).read_bytes()
            name = str(json.loads(data).get("name", ""))
        except (OSError, ValueError, AttributeError):
            return SlotFacts(slot=slot)
        variant = digest.digest_bytes(data)
        return SlotFacts(slot=slot, variant=variant, name=name, last_good=letter)

    def _slot(self, slot: str) -> Path:
        if not safe_name(rungs.parted(slot)[0]):
            raise SlotError(f"not a slot name: {slot!r}")
        return self._root / slot


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    """Say what was being done when the disk refused."""
    try:
        yield
    except OSError as error:
        raise SlotError(f"{doing}: {error.strerror or error}") from error
