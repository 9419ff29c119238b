"""Where a target's bytes are in a base: exact copies, and stretches that lie side by side."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

WINDOW = 16  # bytes that must be equal before a copy is looked at
STRIDE = 8  # of the base's index: every equal stretch of 23 bytes has a window in it
COPY_MIN = 32  # a shorter copy costs about what it saves
_BACK = 4096  # bytes before a window that are compared; an earlier window had met the rest
_PART = 1 << 20  # of the target that is looked up at once
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd constants


@dataclass(frozen=True, slots=True)
class Stretch:
    """``length`` bytes of the target, and where they lie in the base."""

    target: int
    base: int
    length: int

    @property
    def end(self) -> int:
        """Of the target."""
        return self.target + self.length


def copies(base: Bytes, target: Bytes) -> list[Stretch]:
    """Equal stretches of at least `COPY_MIN` bytes, in the target's order, none overlapping.

    Greedy: the first window that the base has too is grown both ways as far as it goes. An index
    of every eighth window of the base keeps memory at two bytes for each of its own.
    """
    keys, places = _index(base)
    found: list[Stretch] = []
    done = 0
    for at, where in _hits(keys, places, target):
        if at < done:
            continue
        start, place = _grow_back(base, target, at, where, done)
        length = _equal(base, target, place, start)
        if length >= COPY_MIN:
            found.append(Stretch(start, place, length))
            done = start + length
    return found


def side_by_side(
    base_range: tuple[int, int], target_range: tuple[int, int], anchors: Sequence[Stretch]
) -> list[Stretch]:
    """Stretches of two versions of one file that lie side by side, equal or not.

    The same size counts as the same structure. Otherwise equal stretches in rising order are the
    anchors, and what lies between two of them pairs when it is as long on both sides.
    """
    (base, base_end), (target, target_end) = base_range, target_range
    if base_end - base == target_end - target:
        return [Stretch(target, base, target_end - target)] if target_end > target else []
    paired: list[Stretch] = []
    for anchor in (*_rising(anchors), Stretch(target_end, base_end, 0)):
        gap = anchor.target - target
        if gap > 0 and gap == anchor.base - base:
            anchor = Stretch(target, base, gap + anchor.length)  # noqa: PLW2901 - grown
        if anchor.length:
            paired.append(anchor)
        target, base = anchor.end, anchor.base + anchor.length
    return paired


def _rising(anchors: Sequence[Stretch]) -> list[Stretch]:
    """The longest chain of anchors whose places rise in the base too (patience sorting)."""
    tails: list[int] = []  # base places of the best chain of each length
    chain: list[list[int]] = []
    before: list[int] = []
    for number, anchor in enumerate(anchors):
        place = bisect.bisect_left(tails, anchor.base)
        if place == len(tails):
            tails.append(anchor.base)
            chain.append([number])
        else:
            tails[place] = anchor.base
            chain[place].append(number)
        before.append(chain[place - 1][-1] if place else -1)
    kept: list[Stretch] = []
    number = chain[-1][-1] if chain else -1
    while number >= 0:
        kept.append(anchors[number])
        number = before[number]
    return _apart(kept[::-1])


def _apart(anchors: Sequence[Stretch]) -> list[Stretch]:
    """Without those that overlap in the base."""
    kept: list[Stretch] = []
    for anchor in anchors:
        if not kept or anchor.base >= kept[-1].base + kept[-1].length:
            kept.append(anchor)
    return kept


def _index(base: Bytes) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Keys of every eighth window, sorted, and where each is; the first of equal ones leads."""
    keys = _keys(base)
    order = np.argsort(keys, kind="stable")
    return keys[order], order.astype(np.int64) * STRIDE


def _hits(
    keys: NDArray[np.uint64], places: NDArray[np.int64], target: Bytes
) -> Iterator[tuple[int, int]]:
    """(place in the target, place in the base) of windows that both seem to have, in order."""
    if not len(keys):
        return
    for start in range(0, len(target), _PART):
        part = target[start : start + _PART + WINDOW + STRIDE]
        found = np.full(len(part), -1, np.int64)
        for shift in range(STRIDE):
            here = _keys(part[shift:])
            at = np.minimum(np.searchsorted(keys, here), len(keys) - 1)
            found[shift : shift + STRIDE * len(here) : STRIDE] = np.where(
                keys[at] == here, places[at], -1
            )
        for place in np.flatnonzero(found[:_PART] >= 0).tolist():
            yield start + place, int(found[place])


def _keys(data: Bytes) -> NDArray[np.uint64]:
    """A hash of each window that begins at a multiple of `STRIDE`."""
    words = np.frombuffer(data[: len(data) // 8 * 8].tobytes(), "<u8")
    if len(words) < 2:
        return np.empty(0, np.uint64)
    mixed: Any = words[:-1] * _FIRST ^ (words[1:] * _SECOND >> np.uint64(7))
    return np.asarray(mixed * _FIRST, np.uint64)


def _grow_back(base: Bytes, target: Bytes, at: int, where: int, done: int) -> tuple[int, int]:
    reach = min(at - done, where, _BACK)
    if not reach:
        return at, where
    differ = np.flatnonzero(base[where - reach : where] != target[at - reach : at])
    grown = reach - 1 - int(differ[-1]) if len(differ) else reach
    return at - grown, where - grown


def _equal(base: Bytes, target: Bytes, place: int, start: int) -> int:
    """How many bytes are equal from here on."""
    limit = min(len(base) - place, len(target) - start)
    length, step = 0, 256
    while length < limit:
        step = min(step, limit - length)
        here, there = place + length, start + length
        differ = np.flatnonzero(base[here : here + step] != target[there : there + step])
        if len(differ):
            return length + int(differ[0])
        length += step
        step *= 2
    return length
