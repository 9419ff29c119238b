"""When requests run together, and how many."""

from __future__ import annotations

import pytest

from agent.domain import batching
from agent.domain.batching import GROW_AFTER, WINDOW, Governor, Policy

LIMITED = Policy(max_rows=8, p99_limit_s=0.010)


@pytest.mark.parametrize(
    ("delay_s", "rows", "oldest_s", "expected"),
    [
        (0.0, 1, 0.0, 0.0),  # without a delay nobody waits for company
        (0.005, 1, 0.0, 0.005),
        (0.005, 1, 0.003, 0.002),  # the time waited counts
        (0.005, 1, 0.009, 0.0),
        (0.005, 4, 0.0, 0.0),  # a full batch goes at once
        (0.005, 9, 0.0, 0.0),
    ],
)
def test_waiting_for_company(delay_s: float, rows: int, oldest_s: float, expected: float) -> None:
    policy = Policy(max_rows=4, max_delay_s=delay_s)
    assert batching.wait_s(policy, 4, rows=rows, oldest_s=oldest_s) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "cap", "expected"),
    [
        ((1, 1, 1), 8, 3),
        ((1, 1, 1), 2, 2),
        ((3, 3, 3), 8, 2),  # none is torn apart
        ((20, 1), 8, 1),  # one that is too large goes alone
        ((7, 20), 8, 1),
    ],
)
def test_how_many_go_together(rows: tuple[int, ...], cap: int, expected: int) -> None:
    assert batching.together(rows, cap) == expected


def run(governor: Governor, times: int, run_s: float) -> Governor:
    for _ in range(times):
        governor = governor.ran(governor.cap, run_s)
    return governor


def test_without_a_limit_the_cap_is_what_was_set() -> None:
    governor = batching.governor(Policy(max_rows=8))
    assert governor.cap == 8
    assert run(governor, 500, 99.0).cap == 8


def test_under_a_limit_it_grows_from_one_while_there_is_room() -> None:
    governor = batching.governor(LIMITED)
    assert governor.cap == 1
    governor = run(governor, GROW_AFTER, 0.001)
    assert governor.cap == 2
    assert run(governor, 100 * GROW_AFTER, 0.001).cap == 8  # and not beyond what was set


def test_a_run_that_uses_nearly_all_of_the_limit_leaves_the_cap_as_it_is() -> None:
    governor = Governor(policy=LIMITED, cap=4)
    assert run(governor, 500, 0.0048).cap == 4  # twice that is 96 % of the limit


def test_it_backs_off_when_more_than_one_run_in_a_window_is_over() -> None:
    governor = Governor(policy=LIMITED, cap=8).ran(8, 0.006)
    assert governor.cap == 8  # one in a hundred may be
    assert governor.ran(8, 0.006).cap == 7
    late = run(governor, WINDOW, 0.0048).ran(8, 0.006)
    assert late.cap == 8  # the other was in another window


def test_small_runs_do_not_make_it_grow() -> None:
    governor = Governor(policy=LIMITED, cap=4)
    for _ in range(10 * GROW_AFTER):
        governor = governor.ran(1, 0.001)
    assert governor.cap == 4


def test_it_settles_where_the_limit_is() -> None:
    """Runs of n samples take n ms: 10 ms let 4 go together (2 x 4 ms within 90 % of it)."""
    governor = batching.governor(LIMITED)
    caps = []
    for _ in range(3000):
        governor = governor.ran(governor.cap, governor.cap / 1000)
        caps.append(governor.cap)
    assert set(caps[1000:]) <= {4, 5}


def test_the_delay_counts_against_the_limit() -> None:
    policy = Policy(max_rows=8, max_delay_s=0.008, p99_limit_s=0.010)
    assert run(batching.governor(policy), 200, 0.001).cap == 1
