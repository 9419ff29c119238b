from __future__ import annotations

import numpy as np
import pytest

from controller.compress.quantize import observers, ranges
from controller.compress.quantize.observers import Range, Watch
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets


def watched(*parts: np.ndarray) -> Watch:
    watch = Watch()
    for part in parts:
        watch.see_extremes(part)
    for part in parts:
        watch.see_counts(part)
    return watch


@pytest.fixture(scope="module")
def heavy_tailed() -> Watch:
    """Normal values with one far outlier in 100,000."""
    values = np.random.default_rng(0).standard_normal(100_000)
    values[0] = 40.0
    return watched(values[:50_000], values[50_000:])


def test_extremes_keep_everything(heavy_tailed: Watch) -> None:
    assert observers.extremes(heavy_tailed).high == 40.0


@pytest.mark.parametrize(("name", "most"), [("percentile", 5.0), ("mse", 36.0), ("kl", 20.0)])
def test_an_outlier_is_clipped(heavy_tailed: Watch, name: str, most: float) -> None:
    found = observers.CALIBRATORS[name](heavy_tailed)
    assert 3.0 < found.high < most
    assert found.low <= -3.0


@pytest.mark.parametrize("name", sorted(observers.CALIBRATORS))
def test_without_outliers_almost_nothing_is_clipped(name: str) -> None:
    values = np.random.default_rng(1).uniform(-1.0, 2.0, 100_000)
    found = observers.CALIBRATORS[name](watched(values))
    assert found.high == pytest.approx(2.0, abs=0.05)
    assert found.low == pytest.approx(-1.0, abs=0.05)


@pytest.mark.parametrize("name", sorted(observers.CALIBRATORS))
@pytest.mark.parametrize("values", [np.zeros(10), np.full(10, 3.0), np.full(10, -2.0)])
def test_constant_tensors_have_their_own_range(name: str, values: np.ndarray) -> None:
    found = observers.CALIBRATORS[name](watched(values))
    assert (found.low, found.high) == (values[0], values[0])


def test_kl_chooses_the_least_divergence_by_brute_force() -> None:
    """Against the textbook loop: 2048 bins, 128 levels, empty bins stay empty."""
    values = np.abs(np.random.default_rng(2).laplace(0, 1, 20_000))
    counts, _ = np.histogram(values, bins=2048, range=(0, values.max()))
    for kept in (128, 300, 1023, 2048):
        p = counts[:kept].astype(float)
        q = np.zeros(kept)
        for level in range(128):
            start, end = level * kept // 128, (level + 1) * kept // 128
            filled = counts[start:end] > 0
            if filled.any():
                q[start:end][filled] = counts[start:end].sum() / filled.sum()
        p[-1] += counts[kept:].sum()
        p, q = p / p.sum(), q / q.sum()
        q[(p > 0) & (q <= 0)] = 1e-9
        expected = float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))
        found = observers._divergence(counts.astype(float), kept)
        assert found == pytest.approx(expected, rel=1e-6)


def test_kl_does_not_clip_the_signal_for_a_spikes_sake() -> None:
    """A constant background behind a bias: half of all values in one bin."""
    random = np.random.default_rng(3)
    values = np.concatenate([np.full(50_000, 0.1), random.uniform(0.0, 1.0, 50_000)])
    assert observers.kl(watched(values)).high > 0.97


def test_ranges_cover_input_and_activations_in_any_batching() -> None:
    inputs = nets.images((3, 12, 12))
    one = ranges.collect(nets.chain(), inputs, batch=7)
    other = ranges.collect(nets.chain(), inputs, batch=24)
    assert set(one) == set(other) >= {"input", "conv0", "relu0", "mean_pooled", "gemm"}
    assert one["input"] == Range(low=float(inputs.min()), high=float(inputs.max()))
    assert one["relu0"].low == 0.0
    for name, found in one.items():
        assert found.low == pytest.approx(other[name].low, abs=1e-5)
        assert found.high == pytest.approx(other[name].high, abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "calibrator", "said"),
    [
        (nets.images((3, 12, 12)), "entropy", "unknown calibrator 'entropy'"),
        (nets.images((3, 12, 12))[:0], "minmax", "at least one input"),
        (np.full((1, 3, 12, 12), np.nan, np.float32), "minmax", "not finite"),
    ],
)
def test_what_cannot_be_observed_is_said(inputs: np.ndarray, calibrator: str, said: str) -> None:
    with pytest.raises(FitError, match=said):
        ranges.collect(nets.chain(), inputs, calibrator=calibrator)
