"""What is learnt from what devices measured, and that it is right of what it has not seen."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from controller.domain.residuals import MOST, Pair, corrected, learn

RECORDED = json.loads((Path(__file__).parent / "recorded_residuals.json").read_text())


def pair(measured_ms: float, device: str = "d", scheme: str = "u8s8", **parts: float) -> Pair:
    return Pair(
        device=device, runtime="onnx", scheme=scheme, parts=parts or {"conv": 1.0},
        measured_ms=measured_ms,
    )  # fmt: skip


def test_one_pair_moves_a_prediction_by_little_and_many_by_nearly_all() -> None:
    moved = []
    for count in (1, 4, 40):
        known = learn([pair(1.1, f"d{n}") for n in range(count)])
        found, devices = corrected({"conv": 1.0}, known, "onnx")
        moved.append(math.log(found) / math.log(1.1))
        assert devices == count
    assert moved == pytest.approx([1 / 2, 4 / 5, 40 / 41], abs=0.01)


def test_what_no_pair_tells_of_stays_as_it_is() -> None:
    known = learn([pair(2.0, f"d{n}") for n in range(8)])
    assert corrected({"dwconv": 1.0}, known, "onnx") == (1.0, 8)
    assert corrected({"conv": 1.0}, known, "litert") == (1.0, 0)
    assert corrected({"conv": 1.0}, (), "onnx") == (1.0, 0)
    assert learn([]) == learn([pair(0.0), pair(1.0, conv=0.0)]) == ()


def test_a_wild_pair_turns_nothing_and_no_correction_is_wild() -> None:
    calm = [pair(1.2, f"d{n}") for n in range(9)]
    with_one = corrected({"conv": 1.0}, learn([*calm, pair(50.0, "x")]), "onnx")[0]
    assert with_one == pytest.approx(corrected({"conv": 1.0}, learn(calm), "onnx")[0], rel=0.05)
    wild = learn([pair(1e9, f"d{n}") for n in range(400)])
    assert corrected({"conv": 1.0}, wild, "onnx")[0] == MOST


def test_twins_vote_once() -> None:
    """Weights of four bits change no prediction."""
    one = learn([pair(1.3), pair(1.1, "e")])
    assert learn([pair(1.3), pair(1.3), pair(1.3), pair(1.1, "e")]) == one


def test_kinds_of_layers_are_told_apart_where_variants_differ_in_them() -> None:
    """Convolutions take twice, products half, of what the table says; 4 % of noise."""
    chance = random.Random(0)
    pairs = []
    for number in range(24):
        conv, gemm = chance.uniform(0.1, 2.0), chance.uniform(0.1, 2.0)
        measured = (2.0 * conv + 0.5 * gemm) * chance.lognormvariate(0.0, 0.04)
        pairs.append(pair(measured, f"d{number}", conv=conv, gemm=gemm))
    known = learn(pairs)
    assert 1.6 < corrected({"conv": 1.0}, known, "onnx")[0] < 2.1
    assert 0.45 < corrected({"gemm": 1.0}, known, "onnx")[0] < 0.8


def recorded() -> list[Pair]:
    """Variants of example workloads, predicted from real probes and timed, on one machine."""
    return [
        Pair(device=row["device"], runtime=row["runtime"], scheme=row["scheme"],
             parts=row["parts"], measured_ms=row["measured_ms"])
        for row in RECORDED["pairs"]
    ]  # fmt: skip


def off(value: float, measured: float) -> float:
    return abs(math.log(value / measured))


def test_on_real_reports_the_error_of_variants_that_were_held_out_shrinks() -> None:
    """Each is predicted by what the others taught, and its twins are held out with it."""
    pairs = recorded()
    before, after = [], []
    for held in pairs:
        rest = [p for p in pairs if (p.runtime, p.parts) != (held.runtime, held.parts)]
        value, devices = corrected(held.parts, learn(rest), held.runtime)
        assert devices == 1
        before.append(off(held.predicted_ms, held.measured_ms))
        after.append(off(value, held.measured_ms))
    assert len(pairs) == 22
    assert sum(after) < 0.85 * sum(before), (sum(before) / 22, sum(after) / 22)
    assert max(after) < max(before)


def test_what_is_learnt_does_not_depend_on_the_order_or_on_saying_it_twice() -> None:
    pairs = recorded()
    assert learn(pairs) == learn(pairs)
    shuffled = random.Random(1).sample(pairs, len(pairs))
    for one, other in zip(learn(pairs), learn(shuffled), strict=True):
        assert replace(one, parts={}) == replace(other, parts={})
        assert one.parts == pytest.approx(dict(other.parts), rel=1e-6)
