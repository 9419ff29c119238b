"""Labels, notes and history of devices, and taking them in from lines."""

from __future__ import annotations

import math
from typing import Any

import pytest

from controller.domain.belonging import DeviceLine, GroupLine, NoteLine
from controller.domain.history import Kind
from controller.errors import NotFound, UserError
from controller.reconcile import keepsakes
from controller.reconcile.context import ACTING
from controller.reconcile.rolling import RolloutPlan
from controller.testing import fingerprint


def test_a_history_has_everything_in_order(world: Any) -> None:
    world.join("a")
    context = world.controller.context
    world.controller.create_rollout(world.released().id, RolloutPlan(waves=(1.0,)))
    world.settle()
    token = ACTING.set("ann")
    keepsakes.note(context, "a", "  its fan was replaced ")
    ACTING.reset(token)
    keepsakes.label(context, "a", {"site": "lab"})
    world.clock.advance(5.0)
    world.devices["a"].change(fingerprint(runtime="1.32"))
    world.controller.revoke("a")
    found = keepsakes.events(context, "a")
    assert [e.at for e in found] == sorted(e.at for e in found)
    kinds = [e.kind for e in found]
    assert {Kind.DEPLOYMENT, Kind.MEASUREMENT, Kind.NOTE, Kind.FINGERPRINT} <= set(kinds)
    what = [e.what for e in found]
    assert [w for w in what if w.startswith("m: ")] == ["m: int8 was ordered", "m: int8 committed"]
    assert any(w.startswith("measured int8, ") or "measured int8" in w for w in what)
    (note,) = [e for e in found if e.kind is Kind.NOTE]
    assert (note.what, note.actor) == ("its fan was replaced", "operator:ann")
    changed = next(e for e in found if e.what == "became something else")
    assert changed.details == {"stack": "runtime.onnx '1.31' → '1.32'"}
    assert found[-1].what == "was revoked"
    with pytest.raises(NotFound, match="device list --all"):
        keepsakes.events(context, "nobody")


def test_condition_alone_is_no_change(world: Any) -> None:
    world.join("a")
    world.devices["a"].report()
    assert "fingerprint_changed" not in world.actions()


def test_labels_are_given_and_taken(world: Any) -> None:
    world.join("a")
    context = world.controller.context
    keepsakes.label(context, "a", {"site": "lab", "rack": "1"})
    assert keepsakes.label(context, "a", {"rack": "2"}, ("site",)).labels == {"rack": "2"}
    keepsakes.label(context, "a", {"rack": "2"})
    assert world.actions().count("labelled") == 2, "the same again is no change"
    with pytest.raises(UserError, match="has no label 'site'"):
        keepsakes.label(context, "a", {}, ("site",))
    for key, value in (("a b", "1"), ("", "1"), ("k", "x" * 257), ("k", "a\nb")):
        with pytest.raises(UserError, match="label"):
            keepsakes.label(context, "a", {key: value})
    with pytest.raises(UserError, match="at most 64 labels"):
        keepsakes.label(context, "a", {f"k{n}": "" for n in range(64)})


@pytest.mark.parametrize("text", ["", "  \n", "x" * 4001])
def test_a_note_has_something_in_it(world: Any, text: str) -> None:
    world.join("a")
    with pytest.raises(UserError, match="a note"):
        keepsakes.note(world.controller.context, "a", text)


LINES = [
    DeviceLine(
        device="a", labels={"site": "lab"},
        notes=(NoteLine(at=5.0, author="operator:ann", text="old"),),
    ),
    DeviceLine(device="b"),
    DeviceLine(device="gone", labels={"x": "y"}),
]  # fmt: skip
GROUPS = [GroupLine(group="lab", where='label.site == "lab"')]


def test_lines_are_taken_in_once(world: Any) -> None:
    world.join("a")
    world.join("b")
    context = world.controller.context
    keepsakes.label(context, "b", {"old": "1"})
    would = keepsakes.take_in(context, LINES, GROUPS, dry_run=True)
    assert world.store.devices.get("a").labels == {}
    assert world.store.groups.find() == world.store.notes.find() == ()
    done = keepsakes.take_in(context, LINES, GROUPS)
    assert done == would
    assert (done.labelled, done.notes, done.groups, done.unknown) == (
        ("a", "b"), 1, ("lab",), ("gone",),
    )  # fmt: skip
    assert [world.store.devices.get(n).labels for n in "ab"] == [{"site": "lab"}, {}]
    again = keepsakes.take_in(context, LINES, GROUPS)
    assert (again.labelled, again.notes, again.groups) == ((), 0, ())
    keepsakes.take_in(context, [], [GroupLine(group="lab", where="online")])
    assert world.store.groups.get("lab").where == "online"
    (note,) = world.store.notes.find(device="a")
    assert (note.at, note.author, note.text) == (5.0, "operator:ann", "old")


@pytest.mark.parametrize(
    ("devices", "groups", "says"),
    [
        ([DeviceLine(device="a", labels={"a b": ""})], [], "cannot be a label"),
        ([], [GroupLine(group="g", where="onlin")], "did you mean 'online'"),
        ([], [GroupLine(group="g g", where="online")], "cannot be a group's name"),
        (
            [DeviceLine(device="a", notes=(NoteLine(at=math.nan, author="", text="t"),))],
            [],
            "moment",
        ),
        (
            [DeviceLine(device="a", notes=(NoteLine(at=1.0, author="\n", text="t"),))],
            [],
            "author",
        ),
    ],
)
def test_one_wrong_line_changes_nothing(
    world: Any, devices: list[DeviceLine], groups: list[GroupLine], says: str
) -> None:
    world.join("a")
    fine = DeviceLine(device="a", labels={"site": "lab"})
    with pytest.raises(UserError, match=says):
        keepsakes.take_in(world.controller.context, [fine, *devices], groups)
    assert world.store.devices.get("a").labels == {}
