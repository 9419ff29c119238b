"""The switch is atomic, the last good folder is safe, and the disk tells what was committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.domain.record import SlotFacts
from agent.errors import SlotError
from agent.slots import Slots, spare
from fitment.core import digest


def stage(slots: Slots, letter: str, name: str = "v1") -> str:
    """A folder with a manifest; returns its digest."""
    slots.prepare("digits")
    folder = slots.folder("digits", letter)
    folder.mkdir(exist_ok=True)
    data = json.dumps({"name": name}).encode()
    (folder / "bundle.json").write_bytes(data)
    return digest.digest_bytes(data)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots")


def test_a_reader_follows_one_link(slots: Slots) -> None:
    assert slots.active("digits") == ""
    stage(slots, "a")
    slots.switch("digits", "a")
    assert slots.active("digits") == "a"
    assert slots.link("digits").readlink() == Path("a")  # relative: the directory may be moved
    stage(slots, "b")
    slots.switch("digits", "b")
    slots.switch("digits", "b")
    assert slots.active("digits") == "b"
    assert (slots.link("digits") / "bundle.json").exists()
    assert slots.names() == ("digits",)


def test_a_link_that_a_power_loss_left_is_no_hindrance(slots: Slots) -> None:
    stage(slots, "a")
    (slots.link("digits").parent / ".active.new").symlink_to("b")
    slots.switch("digits", "a")
    assert slots.active("digits") == "a"


def test_only_what_is_there_can_serve(slots: Slots) -> None:
    slots.prepare("digits")
    with pytest.raises(SlotError, match="no folder 'b'"):
        slots.switch("digits", "b")
    stage(slots, "a")
    slots.switch("digits", "a")
    slots.deactivate("digits")
    slots.deactivate("digits")
    assert slots.active("digits") == ""


def test_what_serves_is_not_cleared(slots: Slots) -> None:
    stage(slots, "a")
    slots.switch("digits", "a")
    with pytest.raises(SlotError, match="serves"):
        slots.clear("digits", "a")
    stage(slots, "b")
    slots.clear("digits", "b")
    slots.clear("digits", "b")
    assert not slots.folder("digits", "b").exists()


def test_the_spare_folder_is_never_the_last_good_one() -> None:
    assert [spare(letter) for letter in ("", "a", "b")] == ["a", "b", "a"]


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".a", "x" * 65, "a\0"])
def test_names_cannot_leave_the_folder(name: str, slots: Slots) -> None:
    with pytest.raises(SlotError, match="not a slot name"):
        slots.prepare(name)
    with pytest.raises(SlotError, match="folders a and b"):
        slots.folder("digits", name)


def test_facts_come_back_unchecked(slots: Slots) -> None:
    stage(slots, "a")
    slots.switch("digits", "a")
    facts = SlotFacts(
        slot="digits", variant="v", counter=4, last_good="a", golden_ok=True, checked_stack="s"
    )
    slots.write_facts(facts)
    back = slots.restore("digits")
    assert (back.variant, back.counter, back.last_good) == ("v", 4, "a")
    assert (back.golden_ok, back.checked_stack) == (None, "")


def test_restoring_leads_back_to_the_last_good(slots: Slots) -> None:
    stage(slots, "a")
    stage(slots, "b", "v2")
    slots.write_facts(SlotFacts(slot="digits", variant="v", counter=4, last_good="a"))
    slots.switch("digits", "b")
    assert slots.restore("digits").variant == "v"
    assert slots.active("digits") == "a"


def test_a_last_good_that_is_gone_leaves_the_counter(slots: Slots) -> None:
    stage(slots, "b")
    slots.write_facts(SlotFacts(slot="digits", variant="v", counter=4, last_good="a"))
    back = slots.restore("digits")
    assert (back.variant, back.counter, back.last_good) == ("", 4, "")


@pytest.mark.parametrize("facts", [None, "no json", '{"slot": "another"}'])
def test_without_facts_a_bundle_is_named_by_its_manifest(facts: str | None, slots: Slots) -> None:
    variant = stage(slots, "a", "int8")
    slots.switch("digits", "a")
    if facts is not None:
        (slots.link("digits").parent / "facts.json").write_text(facts)
    back = slots.restore("digits")
    assert (back.variant, back.name, back.last_good) == (variant, "int8", "a")


def test_an_empty_slot_has_no_facts(slots: Slots) -> None:
    slots.prepare("digits")
    assert slots.restore("digits") == SlotFacts(slot="digits")
    assert Slots(Path("/nonexistent")).names() == ()


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlotError, match="making slot 'digits'"):
        Slots(tmp_path / "file").prepare("digits")


def rung(slots: Slots) -> None:
    slots.prepare("digits~1")
    slots.folder("digits~1", "a").mkdir()
    slots.switch("digits~1", "a")


def test_a_rung_serves_by_a_link_beside_the_slots_own(slots: Slots) -> None:
    stage(slots, "a")
    slots.switch("digits", "a")
    rung(slots)
    assert slots.rung("digits") == 0
    slots.stand("digits", 1)
    link = slots.link("digits").with_name("rung")
    assert link.readlink() == Path("../digits~1/active")
    assert link.resolve() == slots.folder("digits~1", "a")
    assert (slots.rung("digits"), slots.active("digits")) == (1, "a")
    slots.stand("digits", 0)
    slots.stand("digits", 0)
    assert (slots.rung("digits"), link.is_symlink()) == (0, False)


def test_what_serves_and_what_an_order_names_is_not_taken_away(slots: Slots) -> None:
    stage(slots, "a")
    rung(slots)
    with pytest.raises(SlotError, match="rung 2 of slot 'digits' holds nothing"):
        slots.stand("digits", 2)
    slots.stand("digits", 1)
    for name in ("digits~1", "digits"):
        with pytest.raises(SlotError, match="not taken away"):
            slots.remove(name)
    slots.stand("digits", 0)
    slots.remove("digits~1")
    slots.remove("digits~1")
    assert slots.names() == ("digits",)


@pytest.mark.parametrize("target", ["../shoes~1/active", "../digits/active", "/tmp", "a"])
def test_a_link_that_leads_elsewhere_is_no_rung(slots: Slots, target: str) -> None:
    stage(slots, "a")
    slots.link("digits").with_name("rung").symlink_to(target)
    assert slots.rung("digits") == 0
