"""Which of several variants comes first: speed, bytes and accuracy, as far as they tell."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from controller.domain import ranking
from controller.domain.choice import choose
from controller.domain.fleet import Budget, Variant
from fitment.core.deployment import BundleRef
from fitment.core.measurement import Cost, CostKind, Energy, Latency, Measurement, ReadingStatus
from fitment.core.measurement import Verdict as V

Row = tuple[float, int, float]  # ms, bytes on the wire, guard drop


def variant(name: str, row: Row, agreement: float = 0.99) -> Variant:
    ms, sent, drop = row
    bundle = BundleRef(variant=name, name=name, archive=name, archive_bytes=sent, target=name)
    return Variant(
        name=name, bundle=bundle, model="m", format="onnx", runtime="onnx", scheme="fp32",
        recipe=(), recipe_digest="", accuracy=None, accuracy_interval=None, agreement=0.99,
        sqnr_db=None, guard_accuracy=0.9 - drop, guard_accuracy_drop=drop,
        guard_agreement=agreement, integer_coverage=None, file_bytes=sent, wire_bytes=sent, macs=1,
        predicted=Cost(value=ms, unit="ms", kind=CostKind.INTERPOLATED),
    )  # fmt: skip


def measured(name: str, ms: float, half: float) -> Measurement:
    """A median in the middle of its interval, as wide as ``half`` on either side."""
    latency = Latency(
        count=200, mean_ms=ms, min_ms=ms, p50_ms=ms, p50_low_ms=ms * (1 - half),
        p50_high_ms=ms * (1 + half),
    )  # fmt: skip
    energy = Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor")
    return Measurement(
        id=name, bundle=name, runtime="onnx", threads=1, verdict=V.VALID, energy=energy,
        latency=latency,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "budget", "wins"),
    [
        # clearly faster wins, whatever else
        ((1.0, 900, 0.02), (1.2, 100, 0.0), Budget(), "first"),
        # as fast within noise: fewer bytes win
        ((1.0, 900, 0.0), (1.02, 100, 0.0), Budget(), "second"),
        # as fast and as small: less lost wins
        ((1.0, 1000, 0.010), (1.0, 1015, 0.001), Budget(), "second"),
        # as fast, as small, as accurate within chance: the fewest bytes
        ((1.0, 1000, 0.0015), (1.0, 1015, 0.0), Budget(), "first"),
        # bytes that differ for certain go before accuracy, within the budget
        ((1.0, 900, 0.010), (1.0, 1000, 0.0), Budget(accuracy_drop_max=0.02), "first"),
        # and never beyond it
        ((1.0, 900, 0.010), (1.0, 1000, 0.0), Budget(accuracy_drop_max=0.005), "second"),
        # all the same but a microsecond
        ((1.0, 900, 0.0), (0.99, 900, 0.0), Budget(), "second"),
        # accuracy wanted: bytes and time only where as much is lost
        ((0.2, 100, 0.010), (1.0, 900, 0.0), Budget(prefer="accuracy"), "second"),
        ((0.2, 900, 0.0), (0.2, 100, 0.0005), Budget(prefer="accuracy"), "second"),
        # wherever the two drops lie: those that differ by chance are alike
        ((1.0, 900, 0.0029), (0.2, 100, 0.0031), Budget(prefer="accuracy"), "second"),
        # what would dominate does not keep to the budget, and does not count
        ((1.0, 900, 0.0), (0.5, 100, 0.0), Budget(agreement_min=0.985), "first"),
    ],
)
def test_the_better_of_two(first: Row, second: Row, budget: Budget, wins: str) -> None:
    agreement = 0.98 if budget.agreement_min is not None else 0.99
    both = [variant("first", first), variant("second", second, agreement)]
    assert choose(both, budget, {}).chosen == wins
    assert choose(both[::-1], budget, {}).chosen == wins


@pytest.mark.parametrize(
    ("slower", "half", "wins"),
    [
        (1.02, 0.0, "second"),  # within the usual tie
        (1.06, 0.01, "first"),  # apart, and the intervals say so
        (1.06, 0.04, "second"),  # apart, and the intervals cannot tell
        (1.20, 0.30, "first"),  # an interval that tells nothing makes no slow variant fast
    ],
)
def test_medians_that_cannot_be_told_apart_tie(slower: float, half: float, wins: str) -> None:
    both = [variant("first", (1.0, 900, 0.0)), variant("second", (1.0, 100, 0.0))]
    taken = {"first": measured("first", 1.0, half), "second": measured("second", slower, half)}
    assert choose(both, Budget(), taken).chosen == wins


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("prefer", ["latency", "accuracy"])
def test_no_other_that_keeps_to_the_budget_dominates_the_chosen_one(prefer: str, seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        (rng.choice((1.0, 1.01, 1.05, 1.4)) * rng.uniform(1, 1.03),
         rng.choice((100_000, 101_000, 130_000)), rng.choice((0.0, 0.001, 0.004, 0.03)))
        for _ in range(rng.randint(2, 12))
    ]  # fmt: skip
    known = [variant(str(number), row) for number, row in enumerate(rows)]
    taken = {}
    if seed % 2:
        taken = {v.name: measured(v.name, row[0], 0.03) for v, row in zip(known, rows, strict=True)}
    budget = Budget(accuracy_drop_max=0.02, prefer=prefer)
    found = choose(known, budget, taken)
    if not found.chosen:
        assert all(row[2] > 0.02 for row in rows)
        return
    own = rows[int(found.chosen)]
    for row in (rows[int(name)] for name in found.ranked):
        assert row == own or any(a > b for a, b in zip(row, own, strict=True))


def test_without_labels_answers_that_differ_count_as_lost() -> None:
    alike = [variant("a", (1.0, 1000, 0.0), 0.95), variant("b", (1.0, 1005, 0.0), 0.99)]
    unlabelled = [replace(v, guard_accuracy=None, guard_accuracy_drop=None) for v in alike]
    assert [v.name for v in ranking.ranked(unlabelled, {})] == ["b", "a"]
