"""Moment matching and its folding, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers import moments
from agent.workers.moments import Moments
from fitment.core.patch import Place, StemPatch

REFERENCE = Moments(mean=np.array([1.0, -2.0]), variance=np.array([4.0, 1.0]))
LOCAL = Moments(mean=np.array([0.3, -0.5]), variance=np.array([1.0, 0.25]))


def _correct(
    samples: int = 10**9, max_gain: float = 16.0, **changes: Moments
) -> moments.Correction:
    reference, local = changes.get("reference", REFERENCE), changes.get("local", LOCAL)
    return moments.correct(reference, local, samples=samples, max_gain=max_gain, shared=False)


def test_many_samples_give_the_full_correction() -> None:
    found = _correct()
    assert found.gain == pytest.approx([2.0, 2.0])
    assert found.shift == pytest.approx([1.0 - 0.6, -2.0 + 1.0])
    assert found.clamped == 0


def test_few_samples_give_less_and_stay_consistent() -> None:
    """Half way: the corrected mean lies half way, the deviation at the geometric mean."""
    found = _correct(samples=2)
    assert found.gain == pytest.approx([2**0.5, 2**0.5])
    assert found.gain * LOCAL.mean + found.shift == pytest.approx([0.65, -1.25])


def test_the_gain_is_bounded_and_the_mean_still_matches() -> None:
    found = _correct(max_gain=1.5)
    assert found.gain == pytest.approx([1.5, 1.5])
    assert found.clamped == 2
    assert found.gain * LOCAL.mean + found.shift == pytest.approx(REFERENCE.mean)


def test_a_silent_channel_keeps_its_gain() -> None:
    silent = Moments(mean=np.array([0.3, 0.0]), variance=np.array([1.0, 0.0]))
    assert _correct(local=silent).gain == pytest.approx([2.0, 1.0])


def test_one_scale_for_all_channels_gets_one_gain() -> None:
    local = Moments(mean=np.zeros(2), variance=np.array([1.0, 1.0]))
    found = moments.correct(REFERENCE, local, samples=10**9, max_gain=16.0, shared=True)
    assert found.gain == pytest.approx([2**0.5, 2**0.5])


@pytest.mark.parametrize(
    ("low", "high", "dtype", "zero_point"),
    [
        (0.0, 1.0, "uint8", 0),
        (-1.0, 3.0, "uint8", 64),
        (0.5, 1.0, "uint8", 0),
        (-1.0, -0.5, "uint8", 255),
        (0.0, 1.0, "int8", -128),
    ],
)
def test_zero_stays_representable(low: float, high: float, dtype: str, zero_point: int) -> None:
    scale, found = moments.input_quantization(low, high, dtype)
    assert found == zero_point
    limits = np.iinfo(dtype)
    assert float(scale) * (limits.max - found) >= high - float(scale)
    assert float(scale) * (limits.min - found) <= low + float(scale)


def _file() -> tuple[bytes, StemPatch]:
    parts: list[tuple[str, np.ndarray]] = [
        ("input_scale", np.array([0.1], "<f4")),
        ("input_zero_point", np.array([0], "u1")),
        ("weight_scale", np.array([0.01, 0.02], "<f4")),
        ("bias", np.array([100, -50], "<i4")),
        ("bias_scale", np.array([0.001, 0.002], "<f4")),
    ]
    data, places = b"head", {}
    for name, array in parts:
        places[name] = Place(offset=len(data), dtype=array.dtype.name, count=array.size)
        data += array.tobytes()
    return data + b"tail", StemPatch(probe="p", mean=(), variance=(), **places)


def test_folding_keeps_bias_in_units_of_the_new_scales() -> None:
    data, stem = _file()
    found = _correct()
    writes = moments.fold(data, stem, found, low=0.0, high=0.51)
    patched = bytearray(data)
    for write in writes:
        patched[write.offset : write.offset + len(write.data)] = write.data
    now = bytes(patched)
    assert (now[:4], now[-4:], len(now)) == (b"head", b"tail", len(data))
    assert moments.read(now, stem.weight_scale) == pytest.approx([0.02, 0.04])
    scale = moments.read(now, stem.input_scale)[0]
    assert scale == pytest.approx(0.002)
    assert moments.read(now, stem.bias_scale) == pytest.approx([0.02 * scale, 0.04 * scale])
    real = moments.read(now, stem.bias) * moments.read(now, stem.bias_scale)
    assert real == pytest.approx(found.gain * [0.1, -0.1] + found.shift, abs=1e-4)


def test_a_bias_that_does_not_fit_is_refused() -> None:
    data, stem = _file()
    with pytest.raises(ValueError, match="does not fit"):
        moments.fold(data, stem, _correct(), low=0.0, high=1e-12)
