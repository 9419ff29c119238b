"""Scores, selection and compensation of weights: by hand, and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from controller.compress.prune.sparse import floor, lamp, magnitude, selection, sparsegpt, wanda
from controller.compress.prune.sparse.refit import refit
from controller.compress.prune.sparse.selection import Pattern
from controller.errors import FitError

RANDOM = np.random.default_rng(11)


def test_magnitude() -> None:
    assert magnitude.scores(np.array([[-3.0, 2.0]])).tolist() == [[3.0, 2.0]]


def test_lamp_by_hand() -> None:
    """Squares 1, 4, 9, 16: 1/30, 4/29, 9/25, 16/16."""
    found = lamp.scores(np.array([[3.0, -1.0], [4.0, -2.0]]))
    assert found == pytest.approx(np.array([[9 / 25, 1 / 30], [1.0, 4 / 29]]))


def test_lamp_does_not_see_a_layers_scale() -> None:
    weights = RANDOM.normal(size=(5, 7))
    assert lamp.scores(weights) == pytest.approx(lamp.scores(0.001 * weights))
    assert not lamp.scores(np.zeros((2, 2))).any()


def test_wanda_by_hand() -> None:
    """A small weight behind a large input outweighs a large one: products 3, 8 and 6, 4."""
    weights = np.array([[3.0, -2.0], [6.0, 1.0]])
    energy = np.array([[1.0, 16.0], [1.0, 16.0]])
    expected = np.array([[3.0, 8.0], [6.0, 4.0]]) / np.sqrt(9 + 64 + 36 + 16)
    assert wanda.scores(weights, energy) == pytest.approx(expected)
    with pytest.raises(FitError, match="wanda scores need inputs"):
        wanda.scores(weights)


def test_the_lowest_go_and_ties_go_by_place() -> None:
    gone = selection.cheapest(np.array([[1.0, 0.5], [0.5, 0.5]]), 0.5)
    assert gone.tolist() == [[False, True], [True, False]]
    rows = selection.by_row(np.array([[1.0, 2, 3, 4], [40, 30, 20, 10]]), 0.5)
    assert rows.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_two_of_four() -> None:
    stays = selection.in_pattern(np.array([[1.0, 4, 3, 2, 9, 9, 9, 9]]), Pattern(keep=2, of=4))
    assert stays.astype(int).tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


def test_a_pattern_runs_along_the_input_channels() -> None:
    """Columns (channel, window): four channels, a window of three."""
    order = Pattern(keep=2, of=4).order(12, 3)
    assert order is not None
    assert order.tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert Pattern(keep=2, of=4).order(18, 3) is None


@pytest.mark.parametrize("text", ["4:2", "2:2", "two of four", "0:4", "2:4:8"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(FitError, match="no pattern such as 2:4"):
        Pattern.parse(text)


def layers() -> dict[str, np.ndarray]:
    """A stem whose weights are a thousandth of the others'."""
    return {
        "stem": 0.001 * RANDOM.normal(size=(4, 10)),
        "body": RANDOM.normal(size=(20, 20)),
        "head": RANDOM.normal(size=(5, 20)),
    }


def test_the_trap_is_seen_and_named() -> None:
    scores = {name: np.abs(values) for name, values in layers().items()}
    found = floor.across_layers(scores, 0.5, 0.0)
    assert found.stays["stem"].sum() == 0
    (trapped,) = found.trapped
    assert trapped.text == (
        "trap: one threshold for all layers would leave 'stem' 0 of its 40 weights (0.0 %)"
    )


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_floor_keeps_the_best_and_the_others_give_more(share: float) -> None:
    scores = {name: np.abs(values) for name, values in layers().items()}
    found = floor.across_layers(scores, share, 0.2)
    assert [t.layer for t in found.trapped] == ["stem"]
    assert found.stays["stem"].sum() == 8
    kept, gone = scores["stem"][found.stays["stem"]], scores["stem"][~found.stays["stem"]]
    assert kept.min() > gone.max()
    assert sum(m.sum() for m in found.stays.values()) == round((1 - share) * 540)


def test_without_a_trap_there_is_one_threshold() -> None:
    scores = {"a": RANDOM.random((6, 6)), "b": RANDOM.random((8, 8))}
    found = floor.across_layers(scores, 0.5, 0.1)
    assert found.trapped == ()
    kept = np.concatenate([scores[n][found.stays[n]] for n in scores])
    gone = np.concatenate([scores[n][~found.stays[n]] for n in scores])
    assert (len(kept), kept.min() > gone.max()) == (50, True)


def test_a_floor_above_what_may_stay_is_refused() -> None:
    with pytest.raises(FitError, match="each layer keeps 60% of its weights at least"):
        floor.across_layers({"a": RANDOM.random((4, 4))}, 0.5, 0.6)


def correlated(rows: int = 400, columns: int = 8) -> np.ndarray:
    mixed = RANDOM.normal(size=(rows, 3)) @ RANDOM.normal(size=(3, columns))
    return mixed + 0.3 * RANDOM.normal(size=(rows, columns))


def harm(x: np.ndarray, weights: np.ndarray, found: np.ndarray) -> float:
    return float((((weights - found) @ x.T) ** 2).sum())


def test_sparsegpt_without_correlation_is_magnitude_and_moves_nothing() -> None:
    weights = RANDOM.normal(size=(3, 10))
    found, stays = sparsegpt.prune(weights, np.eye(10), 0.4)
    assert np.array_equal(stays, ~selection.cheapest(weights**2, 0.4))
    assert found == pytest.approx(np.where(stays, weights, 0.0))


def test_one_weight_goes_as_optimal_brain_surgeon_says() -> None:
    """The last column's neighbours are all behind it when it is put first.

    Removing w_p moves the others by −w_p·H⁻¹_p/H⁻¹_pp (Hassibi & Stork 1993), all columns free.
    """
    x = correlated(columns=5)
    gram = x.T @ x
    damped = gram + np.eye(5) * np.diag(gram).mean() * sparsegpt.DAMPING
    inverse = np.linalg.inv(damped)
    weights = np.array([[1e-3, 1.0, -1.0, 1.0, -1.0]])  # the first is the cheapest
    found, stays = sparsegpt.prune(weights, gram, 0.2)
    assert stays.tolist() == [[False, True, True, True, True]]
    expected = weights[0] - weights[0, 0] * inverse[0] / inverse[0, 0]
    assert found[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("pattern", [None, Pattern(keep=2, of=4)])
def test_compensation_keeps_outputs_that_a_plain_mask_moves(pattern: Pattern | None) -> None:
    x, weights = correlated(), RANDOM.normal(size=(6, 8))
    found, stays = sparsegpt.prune(weights, x.T @ x, 0.5, pattern=pattern)
    assert stays.mean() == 0.5
    assert not found[~stays].any()
    assert found[stays].all()
    ours = harm(x, weights, found)
    assert ours < 0.5 * harm(x, weights, np.where(stays, weights, 0.0))
    if pattern is not None:
        assert (stays.reshape(-1, 4).sum(axis=1) == 2).all()


def test_a_refit_is_the_least_squares_of_what_stays() -> None:
    x, weights = correlated(), RANDOM.normal(size=(4, 8))
    stays = RANDOM.random((4, 8)) > 0.5
    found = refit(weights, x.T @ x, stays)
    level = np.sqrt(np.diag(x.T @ x).mean() * 0.01)
    for row in range(4):
        kept = stays[row]
        # The damping as rows of data: what stays is pulled towards what it was.
        a = np.vstack([x[:, kept], level * np.eye(kept.sum())])
        b = np.concatenate([x @ weights[row], level * weights[row, kept]])
        best = np.linalg.lstsq(a, b, rcond=None)[0]
        assert found[row, kept] == pytest.approx(best, rel=1e-6)
        assert not found[row, ~kept].any()
    sequential, mask = sparsegpt.prune(weights, x.T @ x, 0.5)
    assert harm(x, weights, refit(weights, x.T @ x, mask)) < harm(x, weights, sequential)


def test_sparsegpt_comes_near_the_best_mask_there_is() -> None:
    """All masks of one output tried, each refitted: ours is among the best tenth."""
    x, weights = correlated(columns=8), RANDOM.normal(size=(1, 8))
    gram = x.T @ x
    harms = []
    for chosen in itertools.combinations(range(8), 4):
        stays = np.zeros((1, 8), bool)
        stays[0, list(chosen)] = True
        harms.append(harm(x, weights, refit(weights, gram, stays)))
    _, mask = sparsegpt.prune(weights, gram, 0.5)
    ours = harm(x, weights, refit(weights, gram, mask))
    assert ours <= np.quantile(harms, 0.1)


def test_inputs_that_never_vary_do_no_harm() -> None:
    x = correlated()
    x[:, 2] = 0.0
    weights = RANDOM.normal(size=(3, 8))
    found, stays = sparsegpt.prune(weights, x.T @ x, 0.5)
    assert np.isfinite(found).all()
    assert np.isfinite(refit(weights, x.T @ x, stays)).all()
