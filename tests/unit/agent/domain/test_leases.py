"""What an application holds, and what is made of what it tells."""

from __future__ import annotations

import pytest

from agent.domain.expects import Unreadable, problems
from agent.domain.leases import LEASE_S, Given, Lease, NotGiven, Registered, renewed

OLD = Given(folder="/s/a", variant="sha256:old")
NEW = Given(folder="/s/b", variant="sha256:new")


def lease() -> Lease:
    made = Lease(registered=Registered(application="cam", slot="s"), since_s=0.0, heard_s=0.0)
    assert renewed(made, OLD, 0.0)
    made.acknowledge(OLD.variant)
    return made


def test_the_old_folder_is_held_until_the_new_one_is_loaded() -> None:
    held = lease()
    assert not renewed(held, OLD, 1.0)
    assert renewed(held, NEW, 2.0)
    assert held.holds == {"/s/a", "/s/b"}
    held.acknowledge(NEW.variant)
    assert held.holds == {"/s/b"}


def test_only_what_was_given_can_be_acknowledged() -> None:
    held = lease()
    renewed(held, NEW, 1.0)
    with pytest.raises(NotGiven, match="the lease is on sha256:new, not on sha256:old"):
        held.acknowledge(OLD.variant)
    assert held.loaded == OLD


def test_the_same_digest_in_another_folder_begins_anew() -> None:
    held, again = lease(), Given(folder="/s/b", variant=OLD.variant)
    held.report([2.0] * 3, errors=0)
    renewed(held, again, 1.0)
    held.acknowledge(OLD.variant)
    before, now = held.told()
    assert before is not None
    assert (held.loaded, before.count, now.count, now.requests) == (again, 3, 0, 3)


def test_it_lapses_by_silence() -> None:
    held = lease()
    renewed(held, OLD, 5.0)
    assert not held.lapsed(5.0 + LEASE_S)
    assert held.lapsed(5.1 + LEASE_S)


def test_counts_go_on_and_latencies_begin_anew_with_each_variant() -> None:
    held = lease()
    held.report([2.0] * 150, errors=3)
    before, now = held.told()
    assert before is None
    assert (now.variant, now.requests, now.errors, now.p50_ms, now.p95_ms) == (
        OLD.variant, 150, 3, 2.0, 2.0,
    )  # fmt: skip
    renewed(held, NEW, 1.0)
    held.acknowledge(NEW.variant)
    held.report([4.0] * 100 + [9.0] * 20, errors=1)
    before, now = held.told()
    assert before is not None
    assert (before.variant, before.requests, before.errors) == (OLD.variant, 150, 3)
    assert (now.variant, now.requests, now.errors, now.count) == (NEW.variant, 270, 4, 120)
    assert (now.p50_ms, now.p95_ms) == (4.0, None)  # 120 are too few for a p95


FOUND = {
    "inputs": [{"name": "x", "shape": [-1, 4]}], "outputs": [], "layout": "", "labels": ["a", "b"],
    "preprocessing": {"mean": "0"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("expects", "wrong"),
    [
        (None, []),
        ({"inputs": [{"shape": [8, 4]}], "labels": ["a", "b"]}, []),
        ({"labels": ["b", "a"]}, ["labels is ['a', 'b'], expected ['b', 'a']"]),
        ({"inputs": [{"shape": [1, 5]}]}, ["inputs[0] shape is [-1, 4], expected [1, 5]"]),
        ({"outputs": [{}]}, ["it has 0 outputs, expected 1"]),
        ({"preprocessing": {"mean": "1"}}, ["preprocessing 'mean' is '0', expected '1'"]),
    ],
)
def test_what_is_expected(expects: object, wrong: list[str]) -> None:
    assert problems(expects, FOUND) == wrong


@pytest.mark.parametrize("expects", ["x", {"label": []}, {"inputs": 3}, {"inputs": [3]}])
def test_what_cannot_be_read_is_refused(expects: object) -> None:
    with pytest.raises(Unreadable):
        problems(expects, FOUND)
