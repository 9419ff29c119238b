"""Deltas: a target's bytes, told by what the receiver has already.

A delta is a list of operations over a *base* (bytes that both sides have) and a few entropy-coded
sections that the operations read from, each from front to back:

- ``insert`` takes bytes of the literal section, ``copy`` takes bytes of the base;
- ``sub`` adds a section's bytes to the base, lane by lane: nibbles, bytes, or little-endian
  integers of 2 or 4 bytes, modulo the lane. Neighbouring weights of two trainings differ little,
  so the differences have far less entropy than the weights. Wide lanes are kept as byte planes.
- ``keep`` takes the base's element where a bit is set and zero elsewhere: what pruning does. Its
  signed form leaves the element's top bit, since a float times a mask of zero is minus zero.

Copy and insert are those of VCDIFF (Korn et al., RFC 3284, 2002); adding byte differences to
inexact matches is bsdiff's (Percival, "Naive differences of executable code", 2003).

A section is LZMA, which finds what repeats, or bzip2, whose Huffman codes are closer to the entropy
of small differences. Both are in the standard library, so a device installs nothing for deltas.

Applying needs memory for the sections' decoders and one block, whatever the sizes. Nothing here
is trusted: lengths are bounded, and only the digest of the result says that it is right.
"""

from __future__ import annotations

import bz2
import enum
import functools
import lzma
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

MAGIC: Final = b"FITDELT1"
BLOCK_BYTES: Final = 64 * 1024
SECTIONS: Final = 10
MAX_DICTIONARY: Final = 1024 * 1024  # of a section's decoder; the literals may have more
MAX_LITERAL_DICTIONARY: Final = 4 * 1024 * 1024
BZ2_LEVEL: Final = 1  # of sections in bzip2; half a MiB to decode
_BZ2: Final = b"BZh1"  # which no section of ours in LZMA begins with
_DECODER_SPARE: Final = 512 * 1024
_READ_BYTES: Final = 16 * 1024
_HEADER: Final = struct.Struct("<8s32s32sQQ" + "I" * SECTIONS)
_MAX_VARINT_BYTES: Final = 9

ReadBase = Callable[[int, int], bytes]
"""(offset, size) -> exactly so many bytes of the base."""


class DeltaError(ValueError):
    """This is no delta, or not one for this base."""


class Kind(enum.IntEnum):
    """What an operation does."""

    INSERT = 0  # bytes of the literal section
    COPY = 1  # bytes of the base
    SUB_NIBBLE = 2  # base + difference in lanes of 4 bits
    SUB_1 = 3  # in lanes of one byte
    SUB_2 = 4  # of two bytes, little endian
    SUB_4 = 5  # of four
    KEEP_1 = 6  # the base where a bit is set, zero elsewhere; elements of one byte
    KEEP_2 = 7  # of two
    KEEP_4 = 8  # of four
    KEEP_SIGNED_2 = 9  # the base where a bit is set, its sign alone elsewhere; of two bytes
    KEEP_SIGNED_4 = 10  # of four


class Section(enum.IntEnum):
    """Where an operation's bytes are; wide lanes take as many sections as they have bytes."""

    OPERATIONS = 0
    LITERALS = 1
    BYTES = 2  # of SUB_NIBBLE and SUB_1
    PAIRS = 3  # of SUB_2: 3 and 4, the lowest byte first
    QUADS = 5  # of SUB_4: 5 to 8
    BITS = 9  # of KEEP_*, the lowest bit first; a new byte for each operation


WIDTHS: Final = {
    Kind.SUB_2: 2, Kind.SUB_4: 4, Kind.KEEP_1: 1, Kind.KEEP_2: 2, Kind.KEEP_4: 4,
    Kind.KEEP_SIGNED_2: 2, Kind.KEEP_SIGNED_4: 4,
}  # fmt: skip
"""Bytes of an element, where it is more than a byte or matters."""
SIGNED: Final = (Kind.KEEP_SIGNED_2, Kind.KEEP_SIGNED_4)
KEEPS: Final = (Kind.KEEP_1, Kind.KEEP_2, Kind.KEEP_4, *SIGNED)
_LANE_BITS: Final = {Kind.SUB_NIBBLE: 4, Kind.SUB_1: 8, Kind.SUB_2: 16, Kind.SUB_4: 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a delta says of itself."""

    base: str  # hex digits of the base's name: the digest of its bundle manifest
    base_bytes: int
    target: str  # hex digits of the SHA-256 of what comes out
    target_bytes: int
    sizes: tuple[int, ...]  # compressed bytes of the sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One step of the target; ``base`` is where it reads, without meaning for an insert."""

    kind: Kind
    length: int  # bytes of the target
    base: int = 0


def write_header(header: Header) -> bytes:
    """The first bytes of a delta file; the sections follow in order."""
    return _HEADER.pack(
        MAGIC, bytes.fromhex(header.base), bytes.fromhex(header.target),
        header.base_bytes, header.target_bytes, *header.sizes,
    )  # fmt: skip


def read_header(file: IO[bytes]) -> Header:
    """Read the first bytes of a delta file.

    Raises:
        DeltaError: it is none, or one of another version.
    """
    data = file.read(_HEADER.size)
    if len(data) != _HEADER.size or not data.startswith(MAGIC):
        raise DeltaError("this is no delta that this version knows")
    _, base, target, base_bytes, target_bytes, *sizes = _HEADER.unpack(data)
    return Header(
        base=base.hex(),
        base_bytes=base_bytes,
        target=target.hex(),
        target_bytes=target_bytes,
        sizes=tuple(sizes),
    )


def write_operations(operations: list[Operation]) -> bytes:
    """Operations as bytes: length and kind, then how far the base's cursor jumps.

    The cursor moves along with every operation, inserts too, so where base and target have the
    same structure it never jumps.
    """
    out = bytearray()
    cursor = 0
    for operation in operations:
        _put(out, operation.length << 4 | operation.kind)
        if operation.kind is not Kind.INSERT:
            jump = operation.base - cursor
            _put(out, jump << 1 if jump >= 0 else -jump << 1 | 1)
            cursor = operation.base
        cursor += operation.length
    return bytes(out)


def apply(file: IO[bytes], read_base: ReadBase) -> Iterator[bytes]:
    """The target's bytes, in blocks. Check their digest: nothing here does.

    Raises:
        DeltaError: the delta is damaged, or reads outside of the base.
    """
    file.seek(0)
    header = read_header(file)
    sections = _open_sections(file, header)
    left, cursor = header.target_bytes, 0
    while left > 0:
        operation = _read_operation(sections[Section.OPERATIONS], cursor)
        left -= operation.length
        if left < 0 or operation.length < 1:
            raise DeltaError("an operation is longer than what is left")
        if operation.kind is not Kind.INSERT and not (
            0 <= operation.base <= header.base_bytes - operation.length
        ):
            raise DeltaError("an operation reads outside of the base")
        cursor = operation.base + operation.length
        yield from _run(operation, sections, read_base)


def add_lanes(base: bytes, difference: bytes, bits: int) -> bytes:
    """Sum of two equally long byte strings in little-endian lanes of ``bits``, modulo the lane.

    One addition of long integers with the lanes' top bits held back, so no carry leaves a lane.
    """
    size = len(base)
    top = int.from_bytes(_top_bits(bits) * (size // max(1, bits // 8)), "little")
    low = ((1 << 8 * size) - 1) ^ top
    left, right = int.from_bytes(base, "little"), int.from_bytes(difference, "little")
    return (((left & low) + (right & low)) ^ ((left ^ right) & top)).to_bytes(size, "little")


def _top_bits(bits: int) -> bytes:
    if bits == 4:
        return b"\x88"
    return bytes(bits // 8 - 1) + b"\x80"


class _Section:
    """Reads one compressed section from front to back, with bounded memory."""

    def __init__(self, file: IO[bytes], start: int, size: int, dictionary: int) -> None:
        self._file = file
        self._at, self._end = start, start + size
        file.seek(start)
        self._decoder = _decoder(file.read(len(_BZ2)) if size else b"", dictionary)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        parts: list[bytes] = []
        while size > 0:
            try:
                data = self._decoder.decompress(self._source(), size)
            except (lzma.LZMAError, OSError, EOFError) as error:
                raise DeltaError(f"a section of the delta is damaged: {error}") from error
            size -= len(data)
            parts.append(data)
        return b"".join(parts)

    def _source(self) -> bytes:
        if not self._decoder.needs_input:
            return b""
        self._file.seek(self._at)
        data = self._file.read(min(_READ_BYTES, self._end - self._at))
        if not data:
            raise DeltaError("a section of the delta ends early")
        self._at += len(data)
        return data


def _decoder(first: bytes, dictionary: int) -> lzma.LZMADecompressor | bz2.BZ2Decompressor:
    if first == _BZ2:
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=dictionary)


def _open_sections(file: IO[bytes], header: Header) -> list[_Section]:
    sections, start = [], _HEADER.size
    for number, size in enumerate(header.sizes):
        wide = number == Section.LITERALS
        limit = (MAX_LITERAL_DICTIONARY if wide else MAX_DICTIONARY) + _DECODER_SPARE
        sections.append(_Section(file, start, size, limit))
        start += size
    return sections


def _read_operation(section: _Section, cursor: int) -> Operation:
    word = _get(section)
    try:
        kind = Kind(word & 15)
    except ValueError as error:
        raise DeltaError(f"the delta has an operation {word & 15}, which is unknown") from error
    if kind is Kind.INSERT:
        return Operation(kind=kind, length=word >> 4, base=cursor)
    jump = _get(section)
    return Operation(
        kind=kind, length=word >> 4, base=cursor + (-(jump >> 1) if jump & 1 else jump >> 1)
    )


def _run(operation: Operation, sections: list[_Section], read_base: ReadBase) -> Iterator[bytes]:
    if operation.length % WIDTHS.get(operation.kind, 1):
        raise DeltaError("an operation ends within an element")
    for done in range(0, operation.length, BLOCK_BYTES):
        size = min(BLOCK_BYTES, operation.length - done)
        if operation.kind is Kind.INSERT:
            yield sections[Section.LITERALS].read(size)
            continue
        base = read_base(operation.base + done, size)
        if len(base) != size:
            raise DeltaError("the base is shorter than the delta says")
        yield _combine(operation.kind, base, sections)


def _combine(kind: Kind, base: bytes, sections: list[_Section]) -> bytes:
    if kind is Kind.COPY:
        return base
    if kind in KEEPS:
        return _keep(kind, base, sections[Section.BITS])
    first, width = Section.BYTES, 1
    if kind in (Kind.SUB_2, Kind.SUB_4):
        width = WIDTHS[kind]
        first = Section.PAIRS if width == 2 else Section.QUADS
    difference = bytearray(len(base))
    for plane in range(width):
        difference[plane::width] = sections[first + plane].read(len(base) // width)
    return add_lanes(base, bytes(difference), _LANE_BITS[kind])


def _keep(kind: Kind, base: bytes, bits: _Section) -> bytes:
    width = WIDTHS[kind]
    elements = len(base) // width
    packed = bits.read((elements + 7) // 8)
    masks = _masks(width, kind in SIGNED)
    mask = b"".join([masks[byte] for byte in packed])[: len(base)]
    kept = int.from_bytes(base, "little") & int.from_bytes(mask, "little")
    return kept.to_bytes(len(base), "little")


@functools.cache
def _masks(width: int, signed: bool) -> list[bytes]:
    """For every byte of bits what it lets through of eight elements."""
    on, off = b"\xff" * width, bytes(width - 1) + (b"\x80" if signed else b"\0")
    return [b"".join(on if byte >> i & 1 else off for i in range(8)) for byte in range(256)]


def _put(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _get(section: _Section) -> int:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        (byte,) = section.read(1)
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    raise DeltaError("the delta has a number that is too long")
