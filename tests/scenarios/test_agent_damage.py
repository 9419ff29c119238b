"""What lies on the disk is damaged while the device is off: it comes back, serves, and says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.slots import Slots
from fitment.core.deployment import Outcome

from .agent_world import SLOT, World, assignment, bundle

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "flipped": lambda data: bytes(b ^ 0x55 for b in data),
    "flipped in the middle": lambda data: (
        data[: len(data) // 2] + bytes(b ^ 0x55 for b in data[len(data) // 2 :][:64])
        + data[len(data) // 2 + 64 :]
    ),
    "truncated": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "empty": lambda _data: b"",
}  # fmt: skip


def updated(folder: Path) -> World:
    """A device that runs v2 after v1, and lost its power without closing anything."""
    world = World(folder)
    for number, name in enumerate(("v1", "v2"), 1):
        world.wish(assignment(f"d-{number}", name=name, counter=number))
        world.finish(f"d-{number}")
    return world


def off(world: World, folder: Path, *, closed: bool) -> Path:
    """The disk as a power loss leaves it, with a write-ahead log; or as an orderly end does."""
    if closed:
        world.supervisor.close()
    shutil.copytree(world.folders.data_dir, folder, symlinks=True)
    world.kill()
    return folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("place", ["file", "log", "all", "closed"])
def test_a_damaged_journal_costs_no_model_and_no_counter(
    place: str, damage: Damage, tmp_path: Path
) -> None:
    before = updated(tmp_path / "before")
    folder = off(before, tmp_path / "after", closed=place == "closed")
    names = {"file": ["journal.db"], "log": ["journal.db-wal"], "closed": ["journal.db"],
             "all": ["journal.db", "journal.db-wal", "journal.db-shm"]}  # fmt: skip
    for name in names[place]:
        path = folder / name
        assert path.stat().st_size > 0
        path.write_bytes(damage(path.read_bytes()))
    world = World(folder)
    world.run(10)
    slot = world.slot()
    assert slot is not None
    assert (world.serves(), slot.variant, slot.counter) == ("v2", bundle("v2").variant, 2)
    assert slot.serving
    # The log has every page that the file had, unless an empty file makes it one of no database.
    whole = place == "file" and damage is not DAMAGES["empty"]
    assert ("journal" in " ".join(world.reported.notes)) is not whole
    world.wish(assignment("d-3", name="v3", counter=3))
    assert world.finish("d-3").outcome is Outcome.COMMITTED
    world.supervisor.close()
    again = World(folder)
    again.run(10)
    assert again.reported.notes == ()
    assert again.serves() == "v3"


def test_a_journal_that_is_a_day_old_does_not_bring_an_old_release_back(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.supervisor.close()
    old = (tmp_path / "device" / "journal.db").read_bytes()
    world = World(tmp_path / "device")
    world.wish(assignment("d-2", name="v2", counter=2))
    world.finish("d-2")
    world.supervisor.close()
    (tmp_path / "device" / "journal.db").write_bytes(old)
    world = World(tmp_path / "device")
    world.run(10)
    assert world.serves() == "v2"
    assert world.journal.slot(SLOT).counter == 2
    assert "slots were read from disk" in " ".join(world.reported.notes)


def test_facts_of_a_commit_that_did_not_hold_are_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.wish(assignment("d-2", name="v2", counter=2))
    world.until("trial", "d-2")
    save = world.journal.save_slot

    def refuse(_facts: object) -> None:
        raise OSError(5, "the disk is broken")

    world.journal.save_slot = refuse  # type: ignore[method-assign]
    report = world.finish("d-2")
    world.journal.save_slot = save  # type: ignore[method-assign]
    assert report.outcome is Outcome.ROLLED_BACK
    assert world.serves() == "v1"
    facts = json.loads((tmp_path / "slots" / SLOT / "facts.json").read_text())
    assert (facts["counter"], facts["last_good"]) == (1, "a")
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    world = World(tmp_path)
    world.run(5)
    assert world.serves() == "v1"
    assert world.journal.slot(SLOT).variant == bundle("v1").variant


def test_facts_that_name_a_lost_folder_do_not_hide_the_one_that_serves(tmp_path: Path) -> None:
    slots = Slots(updated(tmp_path).folders.slots)
    path = tmp_path / "slots" / SLOT / "facts.json"
    facts = json.loads(path.read_text())
    shutil.rmtree(slots.folder(SLOT, facts["last_good"]))
    slots.switch(SLOT, "a" if facts["last_good"] == "b" else "b")
    (slots.link(SLOT) / "bundle.json").write_text('{"name": "other"}')
    found = slots.restore(SLOT)
    assert (found.name, found.counter, found.last_good) == ("other", 2, slots.active(SLOT))
