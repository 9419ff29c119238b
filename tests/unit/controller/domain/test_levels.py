"""How devices do beside their first days: alone, together, at the same heat."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from controller.domain import levels, triggers
from controller.domain.fleet import Cohort, Trigger, TriggerKind
from controller.domain.levels import Rules, Standing, Steady, Window
from controller.domain.telemetry import Origin, Rollup, rolled
from controller.domain.triggers import Answer
from fitment.core.telemetry import Column, TelemetryBatch

RULES = Rules()
DAY_S = 86_400.0
NOW = 10 * DAY_S
VARIANT = "sha256:0123456789abcdef"


def hour(start_s: float, ms: float, heat: int = 60, rung: int = 0, count: int = 4) -> Rollup:
    named = f"{levels.quantity('m', VARIANT)}{rung}.{heat}"
    return rolled(named, int(start_s), Origin(device="d"), [ms] * count)


def recent(ms: float, heat: int = 60, **more: int) -> list[Rollup]:
    """The last day, hour by hour."""
    return [hour(NOW - 3600.0 * n, ms, heat, **more) for n in range(1, 25)]


def standing(name: str, *shifts: float | None, same: float | None = None) -> Standing:
    """``shifts`` newest first; a single one holds in all windows."""
    listed = shifts if len(shifts) > 1 else shifts * RULES.windows
    windows = tuple(Window(whole=s, same_heat=same, level_ms=1.0) for s in listed)
    return Standing(device=name, base_ms=1.0, windows=windows)


def test_samples_are_binned_by_what_served_its_rung_and_the_heat() -> None:
    sent = TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(1, 2, 3),
        wall_unix_ns=(1, 2, 3),
        columns={
            "serving.m.latency_p50_ms": Column(values=(2.0, 3.0, math.nan)),
            "serving.other.latency_p50_ms": Column(values=(9.0, 9.0, 9.0)),  # of what, it says not
            "temperature_c": Column(values=(61.0, math.nan, 70.0)),
        },
        tags={"slot": "m", "variant": VARIANT, "rung": "1"},
    )  # fmt: skip
    found = levels.binned(sent)
    new = {k: c.values for k, c in found.columns.items() if k.startswith("level.")}
    assert set(new) == {f"level.m.0123456789ab.1.{heat}" for heat in ("60", "x", "70")}
    assert new["level.m.0123456789ab.1.60"][0] == 2.0
    assert new["level.m.0123456789ab.1.x"][1] == 3.0
    assert sum(math.isnan(v) for values in new.values() for v in values) == 7
    assert levels.binned(replace(sent, tags={})) is not found
    assert levels.binned(replace(sent, tags={})).columns == sent.columns


def test_a_shift_is_told_in_whole_and_at_the_same_heat() -> None:
    """20 % slower because it is warmer, and no slower than it was when it was as warm."""
    before = [hour(0.0, 1.0, 60, count=40), hour(0.0, 1.2, 70, count=10)]
    found = levels.standing("d", before, recent(1.2, 70), now=NOW, rules=RULES)
    assert found is not None
    assert [round(w.whole or 0.0, 2) for w in found.windows] == [pytest.approx(0.18, abs=0.03)] * 3
    assert [w.same_heat for w in found.windows] == [pytest.approx(0.0, abs=0.02)] * 3


@pytest.mark.parametrize(
    ("before", "now", "known"),
    [
        ([hour(0.0, 1.0, count=3)], recent(2.0), None),  # the baseline is being learnt
        ([hour(0.0, 1.0, 60, 1, 40)], recent(2.0), None),  # another rung's
        ([hour(0.0, 1.0, count=40)], recent(2.0, rung=1), [False, False, False]),
        ([hour(0.0, 1.0, count=40)], recent(2.0)[:6], [True, False, False]),
        ([hour(0.0, 1.0, count=40)], recent(2.0), [True, True, True]),
    ],
)
def test_what_is_not_known_is_not_said(
    before: list[Rollup], now: list[Rollup], known: list[bool] | None
) -> None:
    found = levels.standing("d", before, now, now=NOW, rules=RULES)
    assert (None if found is None else [w.whole is not None for w in found.windows]) == known


def test_at_a_heat_that_was_never_there_nothing_is_said_of_the_same_heat() -> None:
    before = [hour(0.0, 1.0, 60, count=40)]
    found = levels.standing("d", before, recent(1.5, 80), now=NOW, rules=RULES)
    assert found is not None
    assert {w.same_heat for w in found.windows} == {None}
    assert levels.together([found], RULES).same_heat == (None, None, None)


PEERS = [standing(f"p{n}", shift) for n, shift in enumerate((-0.02, -0.01, 0.0, 0.01, 0.02))]


@pytest.mark.parametrize(
    ("one", "is_alone"),
    [
        (standing("d", 0.3), True),
        (standing("d", 0.15), False),  # not much
        (standing("d", 0.3, 0.0, 0.3), False),  # not in every window
        (standing("d", 0.3, 0.3, None), False),  # not known of one
        (standing("d", -0.5), False),  # faster than the others: no case for service
    ],
)
def test_who_is_slower_than_its_cohort_alone_is_a_case_for_service(
    one: Standing, is_alone: bool
) -> None:
    shared = levels.together([*PEERS, one], RULES)
    assert (levels.alone(one, shared, RULES) is not None) is is_alone
    assert not any(levels.alone(peer, shared, RULES) for peer in PEERS)


def test_what_all_share_is_no_case_for_service_and_spread_widens_the_limit() -> None:
    warm = [standing(f"d{n}", 0.4 + 0.01 * n) for n in range(6)]
    shared = levels.together(warm, RULES)
    assert not any(levels.alone(one, shared, RULES) for one in warm)
    scattered = [standing(f"d{n}", 0.12 * n) for n in range(-4, 5)]
    wide = levels.together(scattered, RULES)
    assert not any(levels.alone(one, wide, RULES) for one in scattered)


def test_with_too_few_peers_its_own_past_is_all_there_is() -> None:
    one = standing("d", 0.3)
    found = levels.alone(one, levels.together([one], RULES), RULES)
    assert found is not None
    assert found.peers == 0


def test_a_device_is_back_well_below_the_limit_only() -> None:
    for shift, back in ((0.15, False), (0.05, True)):
        one = standing("d", shift)
        assert levels.is_back(one, levels.together([*PEERS, one], RULES), RULES) is back


def steady(whole: float | None, same: float | None = None, devices: int = 5) -> Steady:
    return Steady(whole=whole, same_heat=same, devices=devices, moved=1.0 if same else 0.0)


@pytest.mark.parametrize(
    ("shift", "reference", "words"),
    [
        (steady(0.3, 0.3), 0.0, "5 devices became slower together: +35 %"),
        (steady(-0.3, -0.3), 0.0, "became faster together: -26 %"),
        (steady(0.3, 0.1), 0.0, ""),  # the weather
        (steady(0.3, 0.3), 0.25, ""),  # answered at about this level
        (steady(0.3, 0.3, devices=2), 0.0, ""),  # too few to tell it from one alone
        (replace(steady(0.3, 0.3), moved=0.4), 0.0, ""),  # most did not move
        (steady(None), 0.0, ""),
    ],
)
def test_what_a_cohort_shares_asks_for_a_fit(shift: Steady, reference: float, words: str) -> None:
    found = triggers.level(shift, reference, RULES)
    assert words in (found.reason if found else "")
    assert bool(found) is bool(words)


@pytest.mark.parametrize(
    ("whole", "reference", "opens"),
    [
        (0.3, None, True), (0.1, None, False), (0.3, 0.25, False), (0.5, 0.25, True),
        (None, None, False),
    ],
)  # fmt: skip
def test_a_budget_that_a_cohort_misses_is_a_level_too(
    whole: float | None, reference: float | None, opens: bool
) -> None:
    found = triggers.over_budget(steady(whole), reference, 10.0, 12.0, RULES)
    assert bool(found) is opens
    assert found is None or "above 12 ms (10 ms measured" in found.reason
    assert triggers.over_budget(steady(whole), None, None, 12.0, RULES) is None


def test_a_direction_that_changes_within_a_day_is_none() -> None:
    mixed = levels.together([standing(f"d{n}", 0.4, -0.2, 0.4) for n in range(5)], RULES)
    assert levels.steady(mixed).whole == 0.0
    warm = levels.together([standing(f"d{n}", 0.4, 0.2, 0.3) for n in range(5)], RULES)
    assert levels.steady(warm).whole == pytest.approx(0.2)


COHORT = Cohort(profile="p", hardware="h", stack="s")


def closed(at: float, shift: float = 0.0, *, by_level: bool = True) -> Trigger:
    return Trigger(
        id=str(at), kind=TriggerKind.SHIFTED, device="d", model="m", cohort=COHORT, reason="",
        created_at=at - 1.0, closed_at=at, before="v", by_level=by_level, shift=shift,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "answer"),
    [
        ([], Answer.OPEN),
        ([replace(closed(NOW), closed_at=0.0)], Answer.ANSWERED),
        ([closed(NOW - DAY_S / 2)], Answer.LATER),
        ([closed(NOW - DAY_S - 1)], Answer.OPEN),
        ([closed(NOW - 4 * DAY_S), closed(NOW - 1.5 * DAY_S)], Answer.LATER),  # twice as long
        ([closed(NOW - 4 * DAY_S), closed(NOW - 2 * DAY_S - 1)], Answer.OPEN),
        ([closed(NOW - DAY_S * n) for n in (9, 8, 7, 6, 5, 4)], Answer.LATER),  # the search budget
        ([closed(NOW - DAY_S / 2, by_level=False)], Answer.LATER),  # a change was just answered
    ],
)
def test_levels_pause_longer_each_time(known: list[Trigger], answer: Answer) -> None:
    assert triggers.may_shift(known, now=NOW) is answer


def test_an_answer_counts_for_the_baseline_that_it_was_given_for() -> None:
    known = [closed(100.0, 0.3), closed(200.0, 0.4), closed(300.0, 0.5, by_level=False)]
    assert triggers.reference(known, "v", since=0.0) == 0.4
    assert triggers.reference(known, "v", since=250.0) is None
    assert triggers.reference(known, "w", since=0.0) is None


def test_an_answer_at_the_same_heat_is_of_the_same_heat() -> None:
    known = [replace(closed(100.0, 0.7), same_heat=0.3)]
    seen = {"since": 0.0, "now": 0.35}
    assert triggers.reference_at_same_heat(known, "v", **seen) == 0.3
    assert triggers.reference_at_same_heat(known, "w", **seen) == 0.0
    older = [closed(100.0, 0.7)]  # it did not say: somewhere between none and the whole
    for now, reference in ((0.35, 0.35), (0.9, 0.7), (-0.2, 0.0), (None, 0.0)):
        assert triggers.reference_at_same_heat(older, "v", since=0.0, now=now) == reference


@pytest.mark.parametrize(
    ("whole", "reference", "asks"),
    [
        (None, None, False), (0.0, None, False), (0.02, None, True), (-0.05, None, False),
        (-0.1, None, True), (0.3, 0.25, False), (0.5, 0.25, True), (0.0, 0.25, True),
    ],
)  # fmt: skip
def test_a_shift_that_may_have_to_do_with_a_budget(
    whole: float | None, reference: float | None, asks: bool
) -> None:
    assert triggers.asks_of_budget(steady(whole), reference, RULES) is asks


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("amplitude", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("fruitful", [False, True])
def test_noise_around_a_level_never_keeps_the_loop_going(
    seed: int, amplitude: float, fruitful: bool
) -> None:
    """Three months; a fit changes the variant (and so begins a new baseline), or it does not."""
    chance = random.Random(seed)
    level, base, variants, known = chance.uniform(-1.0, 1.0), 0.0, itertools.count(), []
    runs, since = str(next(variants)), 0.0
    raised: list[float] = []
    for look in range(24 * 90):
        now = 3600.0 * look
        noise = chance.uniform(-amplitude, amplitude)
        seen = Steady(whole=level + noise - base, same_heat=level + noise - base, devices=9,
                      moved=1.0)  # fmt: skip
        if triggers.may_shift(known, now=now) is not Answer.OPEN:
            continue
        answered = triggers.reference(known, runs, since=since)
        if triggers.level(seen, answered or 0.0, RULES) is None:
            continue
        raised.append(now)
        known.append(replace(closed(now + 1.0, seen.whole or 0.0), before=runs))
        if fruitful:
            runs, since, base = str(next(variants)), now + 1.0, level
    last_month = [at for at in raised if at > 60 * DAY_S]
    assert len(last_month) <= triggers.BUDGET
    assert len(raised) <= 3 * triggers.BUDGET
    if amplitude < math.log1p(RULES.together) / 2:
        assert len(raised) <= 1, "noise below half of the threshold asks for one fit at most"
