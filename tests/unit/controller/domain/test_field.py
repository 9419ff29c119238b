"""Labels from the field: what a line says, what lines come to, and what a rollout makes of it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from controller.domain import field, gates, holding, labels
from controller.domain.fleet import Device, Gate, Rollout
from controller.domain.judgement import GateVerdict
from controller.domain.labels import FieldTally
from tests.scenarios.test_rollout import NOW, RUNNING, device
from tests.unit.controller.domain.test_gates import many

NOW_S = 1_800_000_000.0
ASKED = Gate(
    max_failure_share=0.02, latency_ratio_max=None, field_drop_max=0.02, must_pass=True
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "right", "corrected"),
    [
        ({"label": 3, "predicted": "3"}, True, False),
        ({"label": 3.0, "predicted": 3}, True, False),
        ({"label": "cat", "predicted": "dog"}, False, False),
        ({"correct": False}, False, False),
        ({"correction": "cat"}, None, True),
        ({"correction": "cat", "predicted": "cat"}, None, False),
    ],
)
def test_what_a_line_says(given: dict[str, Any], right: bool | None, corrected: bool) -> None:
    line = labels.read({"time": "2027-01-15T07:00:00Z", **given}, NOW_S)
    assert (line.at, line.right, line.corrected) == (1_799_996_400.0, right, corrected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": 1}, "needs what was 'predicted'"),
        ({"label": 1, "predicted": 1, "correct": True}, "one of 'label'"),
        ({}, "one of 'label'"),
        ({"correct": 1}, "true or false"),
        ({"correct": True, "time": "yesterday"}, "no ISO 8601"),
        ({"correct": True, "time": "2027-01-15T07:00:00"}, "no zone"),
        ({"correct": True, "time": 10**400}, "seconds since 1970"),
        ({"correct": True, "time": 2e9}, "not between 1970 and now"),
        ({"correct": True, "time": -5}, "not between 1970 and now"),
        ({"correct": True, "time": NOW_S * 1000}, "in seconds, not in milliseconds"),
        ({"correct": True, "colour": "red"}, "unknown key 'colour'"),
        ({"label": [1], "predicted": 1}, "a class"),
        ({"correct": True, "slice": 3}, "'slice' is a text"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels.read({"time": NOW_S - 9, **given}, NOW_S)


def test_the_same_line_is_one_and_a_corrected_one_takes_its_place() -> None:
    page = labels.page_of("a", NOW_S)
    seen = {"time": NOW_S, "label": 1, "predicted": 1, "slice": "night", "must_pass": True}
    line = labels.read(seen, NOW_S)
    once = labels.written(page, {line.id: line})
    assert labels.written(once, {line.id: labels.read(seen, NOW_S)}) == once
    whole, night = labels.tallied(once).values()
    assert (whole.slice, night.slice) == ("", "night")
    assert (whole.count, whole.right, whole.must, whole.must_wrong) == (1, 1, 1, 0)
    wrong = labels.read({**seen, "label": 2, "id": line.id}, NOW_S)
    whole = labels.tallied(labels.written(once, {wrong.id: wrong}))[whole.key]
    assert (whole.count, whole.right, whole.must_wrong) == (1, 0, 1)


def test_a_page_has_an_end() -> None:
    page = labels.page_of("a", NOW_S)
    line = labels.read({"time": NOW_S, "correct": True}, NOW_S)
    full = labels.written(page, {str(n): line for n in range(labels.LINES_A_PAGE)})
    with pytest.raises(ValueError, match="post a sample"):
        labels.written(full, {"another": line})


def tally(name: str, release: str, count: int, right: int, *, hour: int = 0, part: str = "",
          must_wrong: int = 0) -> FieldTally:  # fmt: skip
    start = hour * labels.HOUR_S
    return FieldTally(
        key=f"{name}/{start}/{release}/{part}", device=name, release=release, variant="v",
        start_s=start, slice=part, count=count, right=right, must=must_wrong,
        must_wrong=must_wrong,
    )  # fmt: skip


def judge(
    tallies: dict[str, list[FieldTally]], *, members: int = 60, made: Rollout = RUNNING,
    control: list[Device] | None = None,
) -> dict[str, Any]:  # fmt: skip
    rows = many(members)
    devices = {d.device: device(d.device) for d in rows}
    known = devices | {d.name: d for d in control or []}
    asked = replace(made, gate=ASKED)
    cohort = gates.Cohort(
        key="c", members=members, deployments=rows, devices=devices,
        words=field.words(asked, tallies, known),
    )  # fmt: skip
    found = gates.judge([cohort], asked, now=NOW + 60.0, final=True)
    return {report.gate: report for report in found}


def fleet_of(
    chance: random.Random, now: float, before: float = 0.9, devices: int = 60, count: int = 80
) -> dict[str, list[FieldTally]]:
    """Labels of devices that are right so often, now and before."""

    def drawn(share: float) -> int:
        return sum(chance.random() < share for _ in range(count))

    return {
        f"{n:03}": [
            tally(f"{n:03}", "0", count, drawn(before), hour=1),
            tally(f"{n:03}", "1", count, drawn(now), hour=2),
        ]
        for n in range(devices)
    }


def test_a_variant_that_answers_worse_in_the_field_halts_and_a_good_one_does_not() -> None:
    held = judge(fleet_of(random.Random(1), now=0.9))
    assert held["field accuracy drop"].verdict is GateVerdict.HOLDS
    assert held["field slices"].verdict is GateVerdict.HOLDS
    worse = judge(fleet_of(random.Random(1), now=0.75))["field accuracy drop"]
    assert worse.verdict is GateVerdict.FAILED
    assert worse.estimate == pytest.approx(0.15, abs=0.05)


def test_no_label_is_no_pass() -> None:
    assert judge({})["field accuracy drop"].verdict is GateVerdict.MISSING
    assert judge({})["must-pass"].verdict is GateVerdict.MISSING


def test_a_slice_of_one_device_that_surely_fell_is_seen_though_all_of_it_did_not() -> None:
    good = fleet_of(random.Random(2), now=0.9, devices=1, count=2000)
    good["000"] += [
        tally("000", "0", 400, 360, hour=1, part="night"),
        tally("000", "1", 400, 120, hour=2, part="night"),
    ]
    report = judge(good, members=1)["field slices"]
    assert (report.verdict, report.statistical) == (GateVerdict.FAILED, False)
    assert "surely worse" in report.reason
    word = field.words(RUNNING, good, {"000": device("000")})["000"]
    assert (word.where, (word.surely or 0) > 0.3) == ("night", True)


def test_one_wrong_answer_that_must_pass_speaks_against_its_device() -> None:
    rows = {"000": [tally("000", "1", 100, 99, must_wrong=1)]}
    assert judge(rows, members=1)["must-pass"].verdict is GateVerdict.FAILED


def test_a_season_is_not_laid_on_the_variant_where_a_control_group_had_it_too() -> None:
    begun = replace(RUNNING, created_at=1.5 * labels.HOUR_S, control_share=0.05)
    made = replace(begun, control_below=holding.mark(begun, [device(f"{n:03}") for n in range(65)]))
    stay = [d for d in (device(f"{n:03}") for n in range(65)) if holding.is_held(made, d)]
    assert len(stay) == 3
    autumn = fleet_of(random.Random(3), now=0.75)
    control = {
        d.name: [tally(d.name, "0", 100, 90, hour=0), tally(d.name, "0", 100, 75, hour=2)]
        for d in stay
    }
    assert judge(autumn)["field accuracy drop"].verdict is GateVerdict.FAILED
    report = judge(autumn | control, made=made, control=stay)["field accuracy drop"]
    assert report.verdict is GateVerdict.HOLDS
    assert report.estimate == pytest.approx(0.0, abs=0.05)


def test_good_variants_are_said_to_be_surely_worse_by_chance_as_seldom_as_stated() -> None:
    """One device, labels come by twenties over half a day, looked at after each."""
    chance, wrongly, devices = random.Random(5), 0, 40
    for _ in range(devices):
        mine: list[FieldTally] = [
            tally("d", "0", 300, sum(chance.random() < 0.9 for _ in range(300)))
        ]
        for hour in range(1, 13):
            right = sum(chance.random() < 0.9 for _ in range(20))
            mine.append(tally("d", "1", 20, right, hour=hour))
            mine.append(tally("d", "1", 20, right, hour=hour, part=chance.choice("abc")))
            mine.append(tally("d", "0", 20, 18, part=chance.choice("abc")))
            word = field.words(RUNNING, {"d": mine}, {"d": device("d")})["d"]
            if (word.surely or 0.0) > 0.0:
                wrongly += 1
                break
    assert wrongly <= devices * field.CHANCE


def test_intervals_for_people_are_wilsons() -> None:
    (row,) = field.slices("new", {"": field.Count(count=10, right=9)})
    assert (row.low, row.high) == (pytest.approx(0.5958, abs=1e-3), pytest.approx(0.9821, abs=1e-3))


def test_a_release_that_came_after_is_no_baseline() -> None:
    mine = [
        tally("d", "0", 100, 95, hour=0), tally("d", "0", 100, 10, hour=2),
        tally("d", "1", 100, 90, hour=2), tally("d", "2", 100, 50, hour=5),
    ]  # fmt: skip
    new, old = field.parted(RUNNING, mine)
    assert [(t.release, t.start_s) for t in new] == [("1", 2 * labels.HOUR_S)]
    assert [(t.release, t.start_s) for t in old] == [("0", 0)]


def test_a_control_group_is_held_against_what_it_had_when_the_rollout_began() -> None:
    made = replace(RUNNING, created_at=1.5 * labels.HOUR_S, control_below=1.0)
    mine = [tally("d", release, 10, 9, hour=hour) for release, hour in
            (("x", 0), ("0", 1), ("0", 2), ("2", 3))]  # fmt: skip
    mine.append(tally("d", "0", 100, 90, hour=0))
    change = field.changes(made, {"d": mine}, {"d": device("d")})[""]
    assert (change.before.count, change.since.count) == (100, 10)
