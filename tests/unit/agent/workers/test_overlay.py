"""Overlays are bound to their file, to their writes and to its length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.workers import overlay
from agent.workers.child import JobError
from fitment.core import digest
from fitment.core.patch import InputCorrection, Write

FILE = b"0123456789"
SHA = digest.digest_bytes(FILE)
UNDO = InputCorrection(tensor="x", gain=0.1, offset=0.02)
MADE = overlay.make(SHA, [Write(offset=8, data=b"XY"), Write(offset=0, data=b"A")])


def test_apply_writes_and_leaves_the_rest() -> None:
    assert overlay.apply(FILE, MADE) == b"A1234567XY"
    assert FILE == b"0123456789"


def test_the_id_depends_on_the_writes_alone() -> None:
    reordered = overlay.make("sha256:other", reversed(MADE.writes))
    assert reordered.id == MADE.id
    assert overlay.make(SHA, MADE.writes[:1]).id != MADE.id


def test_a_correction_of_the_inputs_is_part_of_what_the_id_names(tmp_path: Path) -> None:
    made = overlay.make(SHA, correction=UNDO)
    assert made.id != overlay.make(SHA).id
    assert made.id != overlay.make(SHA, MADE.writes, correction=UNDO).id
    assert overlay.make(SHA, MADE.writes).id == digest.digest_of(list(MADE.writes))  # as ever
    overlay.save(tmp_path / "o.json", made)
    assert overlay.load(tmp_path / "o.json") == made
    assert overlay.apply(FILE, made) == FILE
    overlay.save(tmp_path / "o.json", replace(made, input=replace(UNDO, gain=0.2)))
    with pytest.raises(JobError, match="digest that its id names"):
        overlay.load(tmp_path / "o.json")


def test_an_older_agent_refuses_a_correction_that_it_does_not_know() -> None:
    """It would read the writes alone, and compare their digest with the id."""
    made = overlay.make(SHA, correction=UNDO)
    assert digest.digest_of(list(made.writes)) != made.id


def test_it_survives_the_disk(tmp_path: Path) -> None:
    overlay.save(tmp_path / "o.json", MADE)
    assert overlay.load(tmp_path / "o.json") == MADE
    assert [path.name for path in tmp_path.iterdir()] == ["o.json"]


def test_a_tampered_overlay_is_refused(tmp_path: Path) -> None:
    tampered = replace(MADE, writes=(Write(offset=0, data=b"B"),))
    overlay.save(tmp_path / "o.json", tampered)
    with pytest.raises(JobError, match="digest that its id names"):
        overlay.load(tmp_path / "o.json")


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{"])
def test_a_damaged_overlay_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "o.json").write_text(content)
    with pytest.raises(JobError, match="cannot be used"):
        overlay.load(tmp_path / "o.json")


def test_another_file_is_refused() -> None:
    with pytest.raises(JobError, match="calibrate again"):
        overlay.apply(b"other", MADE)


@pytest.mark.parametrize("write", [Write(offset=9, data=b"XY"), Write(offset=-1, data=b"X")])
def test_a_write_outside_is_refused(write: Write) -> None:
    with pytest.raises(JobError, match="outside"):
        overlay.apply(FILE, overlay.make(SHA, [write]))
