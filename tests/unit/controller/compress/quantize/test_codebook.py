"""Codebooks of weights: hand-computed values, and a network that keeps its shape."""

from __future__ import annotations

import numpy as np
import pytest

from controller.compress import execute
from controller.compress.graph.model import View
from controller.compress.quantize import codebook, reconstruct
from tests.unit.controller.compress.graph import nets


def test_ternary_by_hand() -> None:
    # E|W| = 1.0, delta = 0.7: 2.0, -1.2 and 0.8 stay, alpha = 4/3. Second: E|W| = 0.5, delta 0.35.
    weights = np.array([[2.0, -1.2, 0.8, 0.6, -0.4], [0.5, -0.5, 0.5, 0.5, -0.5]])
    made = codebook.ternary(weights)
    assert made[0] == pytest.approx(np.array([4, -4, 4, 0, 0]) / 3)
    assert made[1] == pytest.approx(weights[1])


def test_binary_by_hand() -> None:
    made = codebook.binary(np.array([[2.0, -1.0, 0.0], [-0.5, 0.25, -0.75]]))
    assert made == pytest.approx(np.array([[1, -1, 1], [-0.5, 0.5, -0.5]]))


def test_the_scale_of_binary_weights_is_the_least_squares_one() -> None:
    weights = np.random.default_rng(1).normal(size=(1, 50))
    made = codebook.binary(weights)
    for other in (0.9, 1.1):
        assert ((weights - made) ** 2).sum() < ((weights - other * made) ** 2).sum()


def test_a_palette_by_hand() -> None:
    weights = np.array([[0.0, 0.1, 3.0, 3.2], [6.0, 6.2, 9.0, 9.4]])
    made = codebook.palette(weights, 2)
    assert made == pytest.approx(np.array([[0.05, 0.05, 3.1, 3.1], [6.1, 6.1, 9.2, 9.2]]))


def test_a_palette_is_a_fixed_point_of_k_means_and_better_than_a_grid() -> None:
    weights = np.random.default_rng(2).normal(size=(16, 40))
    made = codebook.palette(weights, 3)
    centroids = np.unique(made)
    assert len(centroids) == 8
    for value in centroids:
        assert weights[made == value].mean() == pytest.approx(value)
    grid = np.linspace(weights.min(), weights.max(), 8)
    rounded = grid[np.abs(weights[..., None] - grid).argmin(-1)]
    assert ((weights - made) ** 2).sum() < 0.6 * ((weights - rounded) ** 2).sum()


@pytest.mark.parametrize("values", [np.zeros((2, 4)), np.full((2, 4), -3.0)])
def test_constant_weights_stay(values: np.ndarray) -> None:
    assert np.array_equal(codebook.palette(values, 4), values)
    assert np.array_equal(codebook.ternary(values), values)
    assert np.array_equal(codebook.binary(values), values)


def test_a_network_keeps_its_edges_and_its_layout() -> None:
    model = nets.residual()
    whole = reconstruct.edges(model)
    made = codebook.encode(model, lambda weights: codebook.palette(weights, 8), whole=whole)
    assert set(made.sqnr_db) == {"deep", "point", "side"}
    assert made.left_alone == ("Conv 'stem'", "Gemm 'gemm'")
    assert min(made.sqnr_db.values()) > 30
    inputs = nets.images((4, 13, 13))
    before, after = (
        execute.outputs(m.SerializeToString(), "onnx", inputs) for m in (model, made.model)
    )
    assert 0 < np.abs(before - after).max() < 0.02
    coded = codebook.encode(model, codebook.ternary, whole=whole).model
    view = View(coded)
    for node in coded.graph.node:
        if node.name in made.sqnr_db:
            values = view.constant(node.input[1])
            assert values is not None
            assert all(len(np.unique(row)) <= 3 for row in values)
