"""Making deltas: what comes out again is the target, and each form wins where it should."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping

import numpy as np
import pytest

from controller.artifacts import differ
from controller.artifacts.differ import DICTIONARY, DIFFERENCE, Side
from controller.artifacts.matching import Stretch, copies, side_by_side
from fitment.core import delta

RNG = np.random.default_rng(7)
N = 12_000


def side(files: Mapping[str, bytes]) -> Side:
    ends, data = {}, b""
    for name, content in files.items():
        ends[name] = (len(data), len(data) + len(content))
        data += content
    return Side(name=hashlib.sha256(data).hexdigest(), data=data, files=ends)


def there_and_back(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> tuple[str, int]:
    """(form, bytes of the delta), after checking that it gives the target."""
    base, target = side(old), side(new)
    form, data = differ.make(base, target)
    got = b"".join(delta.apply(io.BytesIO(data), lambda at, n: base.data[at : at + n]))
    assert got == target.data
    header = delta.read_header(io.BytesIO(data))
    assert (header.base, header.target) == (base.name, target.name)
    assert differ.make(base, target) == (form, data)
    return form, len(data)


def test_the_same_again_costs_next_to_nothing() -> None:
    model = RNG.bytes(N)
    assert there_and_back({"model": model}, {"model": model})[1] < 250


def test_moved_parts_are_found_wherever_they_lie() -> None:
    a, b = RNG.bytes(N), RNG.bytes(N)
    form, size = there_and_back({"x": a, "y": b}, {"z": b"head" + b + a[500:]})
    assert form == DICTIONARY
    assert size < 300


def test_weights_that_moved_a_little_are_told_as_differences() -> None:
    old = RNG.integers(-127, 128, N, np.int8)
    new = (old + RNG.integers(-1, 2, N)).clip(-128, 127).astype(np.int8)
    form, size = there_and_back(
        {"model": b"name" + old.tobytes()}, {"model": b"name" + new.tobytes()}
    )
    assert form == DIFFERENCE
    assert size < 0.25 * N  # log2(3) bits of 8 are 0.2


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floats_that_moved_a_little_save_their_upper_bytes(dtype: type) -> None:
    old = RNG.normal(size=N).astype(dtype)
    new = (old * (1 + 2e-3 * RNG.normal(size=N))).astype(dtype)
    form, size = there_and_back(
        {"model": b"odd" + old.tobytes()}, {"model": b"odd" + new.tobytes()}
    )
    assert form == DIFFERENCE
    assert size < 0.66 * old.nbytes


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_mask_of_zeros_leaves_minus_zeros_and_costs_a_bit_all_the_same(dtype: type) -> None:
    old = RNG.normal(size=N).astype(dtype)
    new = old * (RNG.random(N) < 0.5).astype(dtype)
    form, size = there_and_back({"m": old.tobytes()}, {"m": new.tobytes()})
    assert form == DIFFERENCE
    assert size < N / 8 * 1.05 + 300


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_what_was_pruned_costs_a_bit_an_element(dtype: type) -> None:
    old = RNG.integers(1, 127, N).astype(dtype) if dtype is np.int8 else RNG.normal(size=N)
    old = old.astype(dtype)
    new = np.where(RNG.random(N) < 0.5, old, np.zeros_like(old))
    form, size = there_and_back({"m": old.tobytes()}, {"m": new.tobytes()})
    assert form == DIFFERENCE
    assert size < N / 8 * 1.05 + 300


def test_a_longer_file_is_laid_beside_its_old_self_by_what_did_not_change() -> None:
    names = [f"block.{i}.conv.weight.quantized.initializer".encode() for i in range(8)]
    old = [RNG.integers(-127, 128, 4000, np.int8) for _ in names]
    new = [(w + RNG.integers(-1, 2, 4000)).clip(-128, 127).astype(np.int8) for w in old]
    before = b"".join(n + w.tobytes() for n, w in zip(names, old, strict=True))
    after = b"a longer head" + b"".join(n + w.tobytes() for n, w in zip(names, new, strict=True))
    form, size = there_and_back({"model": before}, {"model": after})
    assert form == DIFFERENCE
    assert size < 0.3 * len(after)


@pytest.mark.parametrize(
    ("old", "new"), [(b"", b""), (b"", b"x"), (b"x", b""), (b"abc", b"abd"), (bytes(500), b"\1")]
)
def test_small_things(old: bytes, new: bytes) -> None:
    there_and_back({"m": old}, {"m": new})


def test_copies_do_not_overlap_and_are_equal() -> None:
    base = np.frombuffer(RNG.bytes(5000) + bytes(300), np.uint8)
    target = np.concatenate([base[1000:2003], base[40:90], base[4900:], base[:77]])
    found = copies(base, target)
    done = 0
    for stretch in found:
        assert stretch.target >= done
        done = stretch.end
        assert (base[stretch.base :][: stretch.length] == target[stretch.target : done]).all()
    assert sum(s.length for s in found) > 0.97 * len(target)


def test_gaps_pair_only_when_they_are_as_long_on_both_sides() -> None:
    anchors = [Stretch(10, 20, 40), Stretch(60, 70, 40), Stretch(130, 5, 40), Stretch(200, 300, 40)]
    assert side_by_side((0, 350), (0, 250), anchors) == [
        Stretch(10, 20, 40), Stretch(50, 60, 50), Stretch(200, 300, 40),
        Stretch(240, 340, 10),
    ]  # fmt: skip
