"""Makes deltas (`fitment.core.delta`): two forms, of which the smaller is kept.

*Dictionary*: what the target has in common with the base is copied, wherever it lies. Best when
little changed: other scales, another head, other metadata.

*Difference*: files of the same name are laid side by side, and stretches that differ are told as
integer differences, element by element, or as what pruning kept. Best when every weight moved a
little. Which lanes a stretch has is found by trying: a tensor's neighbours (its name, its shape)
are the same in both versions, so stretches are tensors, without a parser for each format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.artifacts import coding
from controller.artifacts.matching import Bytes, Stretch, copies, side_by_side
from fitment.core import delta
from fitment.core.delta import Kind, Operation, Section

DICTIONARY, DIFFERENCE = "dictionary", "difference"

Mask = NDArray[np.bool_]
Ranges = Mapping[str, tuple[int, int]]
"""File name -> (first byte, byte after the last)."""

_QUIETS = (16, 96)
"""Equal bytes in a row that end a stretch. Few tell small tensors apart by the names between them;
more hold a tensor together of which only some elements changed. Both are tried."""
_PIECE = 4096  # bytes of a stretch that choose their lanes together
_SHORT = 32  # bytes for which looking for lanes is not worth it
_SYMBOL_BITS = 6.0  # what an adaptive coder pays to learn one symbol, about
_BYTE_BITS = 0.25  # and above the entropy for each byte
_KINDS = (
    (Kind.SUB_1, 1), (Kind.SUB_NIBBLE, 1), (Kind.SUB_2, 2), (Kind.SUB_4, 4),
    (Kind.KEEP_1, 1), (Kind.KEEP_2, 2), (Kind.KEEP_4, 4),
    (Kind.KEEP_SIGNED_2, 2), (Kind.KEEP_SIGNED_4, 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The base or the target: its bytes, and which of them are which file's."""

    name: str  # hex digits: of the base's manifest, of the target's bytes
    data: bytes
    files: Ranges


def make(base: Side, target: Side) -> tuple[str, bytes]:
    """(form, delta file) of the smaller form; equal sides give equal bytes."""
    form, sections = min(forms(base, target), key=lambda item: coding.estimate(item[1]))
    return form, pack(base, target, sections)


def forms(base: Side, target: Side) -> list[tuple[str, list[bytes]]]:
    """(form, sections before their entropy coding) of every way that is tried."""
    old, new = np.frombuffer(base.data, np.uint8), np.frombuffer(target.data, np.uint8)
    common = copies(old, new)
    pairs = list(_pairs(base.files, target.files, common))
    plans = [(DICTIONARY, list(_fill(common, len(new))))]
    plans += [(DIFFERENCE, list(_difference(old, new, pairs, common, q))) for q in _QUIETS]
    return [(form, _sections(base, target, plan)) for form, plan in plans]


def pack(base: Side, target: Side, sections: list[bytes]) -> bytes:
    """A delta file of these sections."""
    packed = [coding.compress(data, number) for number, data in enumerate(sections)]
    header = delta.Header(
        base=base.name, base_bytes=len(base.data), target=target.name,
        target_bytes=len(target.data), sizes=tuple(len(data) for data in packed),
    )  # fmt: skip
    return delta.write_header(header) + b"".join(packed)


def _fill(common: Sequence[Stretch], size: int) -> Iterator[Operation]:
    """Copies, and inserts between them."""
    done = 0
    for stretch in common:
        if stretch.target > done:
            yield Operation(kind=Kind.INSERT, length=stretch.target - done)
        yield Operation(kind=Kind.COPY, length=stretch.length, base=stretch.base)
        done = stretch.end
    if size > done:
        yield Operation(kind=Kind.INSERT, length=size - done)


def _difference(
    old: Bytes, new: Bytes, pairs: Sequence[Stretch], common: Sequence[Stretch], quiet: int
) -> Iterator[Operation]:
    """Side by side where files pair, and as in the dictionary form between."""
    done = 0
    for pair in pairs:
        yield from _fill_between(common, done, pair.target)
        yield from _tell(old, new, pair, quiet)
        done = pair.end
    yield from _fill_between(common, done, len(new))


def _pairs(old_files: Ranges, new_files: Ranges, common: Sequence[Stretch]) -> Iterator[Stretch]:
    for name, (start, end) in sorted(new_files.items(), key=lambda item: item[1]):
        if name in old_files:
            low, high = old_files[name]
            inside = [s for s in common if _within(s, (low, high), (start, end))]
            yield from side_by_side((low, high), (start, end), inside)


def _within(stretch: Stretch, old: tuple[int, int], new: tuple[int, int]) -> bool:
    ends = stretch.base + stretch.length <= old[1] and stretch.end <= new[1]
    return ends and stretch.base >= old[0] and stretch.target >= new[0]


def _fill_between(common: Sequence[Stretch], start: int, end: int) -> Iterator[Operation]:
    """The dictionary form of a part of the target."""
    clipped = []
    for stretch in common:
        first, last = max(stretch.target, start), min(stretch.end, end)
        if first < last:
            shifted = stretch.base + first - stretch.target
            clipped.append(Stretch(first - start, shifted, last - first))
    yield from _fill(clipped, end - start)


def _tell(old: Bytes, new: Bytes, pair: Stretch, quiet: int) -> Iterator[Operation]:
    """Operations for a stretch of two versions that lie side by side; alike ones are joined."""
    there = old[pair.base : pair.base + pair.length]
    here = new[pair.target : pair.end]
    pending: Operation | None = None
    for kind, at, length in _parts(there, here, quiet):
        if pending is not None and pending.kind is kind:
            pending = Operation(kind=kind, length=pending.length + length, base=pending.base)
            continue
        if pending is not None:
            yield pending
        pending = Operation(kind=kind, length=length, base=pair.base + at)
    if pending is not None:
        yield pending


def _parts(there: Bytes, here: Bytes, quiet: int) -> Iterator[tuple[Kind, int, int]]:
    """(kind, first byte, length): what is equal is copied, the rest told in pieces."""
    for start, end, differs in _islands(there != here, quiet):
        if not differs:
            yield Kind.COPY, start, end - start
            continue
        at = start
        while at < end:
            stop = min(at + _PIECE, end)
            parts = _lanes(there[at:stop], here[at:stop])
            if stop < end and parts[-1][0] is Kind.INSERT and len(parts) > 1:
                parts.pop()  # the lanes go on in the next piece
            for kind, length in parts:
                yield kind, at, length
                at += length


def _islands(differs: Mask, quiet: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it differs): more than ``quiet`` equal bytes separate what differs."""
    places = np.flatnonzero(differs)
    if not len(places):
        yield 0, len(differs), False
        return
    breaks = np.flatnonzero(np.diff(places) > quiet)
    starts = places[np.r_[0, breaks + 1]].tolist()
    ends = (places[np.r_[breaks, len(places) - 1]] + 1).tolist()
    done = 0
    for start, end in zip(starts, ends, strict=True):
        if start > done:
            yield done, start, False
        yield start, end, True
        done = end
    if done < len(differs):
        yield done, len(differs), False


def _lanes(there: Bytes, here: Bytes) -> list[tuple[Kind, int]]:
    """The cheapest way to tell one piece, by its order-0 entropy."""
    size = len(here)
    best = _bits(here), [(Kind.INSERT, size)]
    for kind, width in _KINDS if size >= _SHORT else _KINDS[:1]:
        for phase in range(width):
            whole = (size - phase) // width * width
            if whole <= 0:
                continue
            cut = slice(phase, phase + whole)
            price = _price(kind, there[cut], here[cut])
            rest = size - whole
            if price is None or price + 8 * rest >= best[0]:
                continue
            parts = [(Kind.INSERT, phase), (kind, whole), (Kind.INSERT, rest - phase)]
            best = price + 8 * rest, [part for part in parts if part[1]]
    return best[1]


def _price(kind: Kind, there: Bytes, here: Bytes) -> float | None:
    """Bits, about; None where this kind cannot tell it."""
    if kind in delta.KEEPS:
        kept = _kept(kind, there, here)
        return None if kept is None else _bits(np.packbits(kept, bitorder="little"))
    planes = _difference_planes(kind, there, here)
    return sum(_bits(plane) for plane in planes)


def _kept(kind: Kind, there: Bytes, here: Bytes) -> Mask | None:
    """For each element whether it was kept; None where one is neither kept nor taken away."""
    width = delta.WIDTHS[kind]
    old, new = there.reshape(-1, width), here.reshape(-1, width)
    same = (old == new).all(axis=1)
    gone, left = new[~same], np.zeros_like(old[~same])
    if kind in delta.SIGNED:
        left[:, -1] = old[~same, -1] & 0x80
    return same if np.array_equal(gone, left) else None


def _difference_planes(kind: Kind, there: Bytes, here: Bytes) -> list[Bytes]:
    if kind is Kind.SUB_NIBBLE:
        low = (here - there) & 15
        high = ((here >> 4) - (there >> 4)) & 15
        return [np.asarray(low | high << 4, np.uint8)]
    width = delta.WIDTHS.get(kind, 1)
    dtype = f"<u{width}"
    old, new = np.frombuffer(there.tobytes(), dtype), np.frombuffer(here.tobytes(), dtype)
    planes = np.frombuffer((new - old).tobytes(), np.uint8).reshape(-1, width)
    return [np.ascontiguousarray(planes[:, plane]) for plane in range(width)]


def _bits(data: Bytes) -> float:
    counts = np.bincount(data, minlength=1)
    counts = counts[counts > 0]
    entropy = -(counts * np.log2(counts / len(data))).sum()
    return float(entropy) + _SYMBOL_BITS * len(counts) + _BYTE_BITS * len(data)


def _sections(base: Side, target: Side, plan: list[Operation]) -> list[bytes]:
    """What the operations of a plan read, and the operations themselves."""
    sections = [bytearray() for _ in range(delta.SECTIONS)]
    sections[Section.OPERATIONS] += delta.write_operations(plan)
    old, new = np.frombuffer(base.data, np.uint8), np.frombuffer(target.data, np.uint8)
    at = 0
    for operation in plan:
        here = new[at : at + operation.length]
        there = old[operation.base : operation.base + operation.length]
        for number, data in _sections_of(operation.kind, there, here):
            sections[number] += data.tobytes()
        at += operation.length
    return [bytes(section) for section in sections]


def _sections_of(kind: Kind, there: Bytes, here: Bytes) -> Iterator[tuple[int, Bytes]]:
    if kind is Kind.INSERT:
        yield Section.LITERALS, here
    elif kind in delta.KEEPS:
        kept = _kept(kind, there, here)
        assert kept is not None
        yield Section.BITS, np.packbits(kept, bitorder="little")
    elif kind is not Kind.COPY:
        first = {Kind.SUB_2: Section.PAIRS, Kind.SUB_4: Section.QUADS}.get(kind, Section.BYTES)
        for plane, data in enumerate(_difference_planes(kind, there, here)):
            yield first + plane, data
