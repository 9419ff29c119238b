"""The delta codec: every operation, bounded memory, and nothing believed."""

from __future__ import annotations

import io
import lzma
import random
import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from fitment.core import delta
from fitment.core.delta import DeltaError, Kind, Operation, Section

BASE = random.Random(1).randbytes(4096)


def pack(
    operations: list[Operation], target_bytes: int, base_bytes: int = len(BASE), **sections: bytes
) -> bytes:
    raw = [b""] * delta.SECTIONS
    raw[Section.OPERATIONS] = delta.write_operations(operations)
    for name, data in sections.items():
        first, _, plane = name.partition("_")
        raw[Section[first.upper()] + int(plane or 0)] = data
    small = [
        lzma.compress(d, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 4096}])
        if d else b"" for d in raw
    ]  # fmt: skip
    header = delta.Header(
        base="00" * 32, base_bytes=base_bytes, target="11" * 32, target_bytes=target_bytes,
        sizes=tuple(len(s) for s in small),
    )  # fmt: skip
    return delta.write_header(header) + b"".join(small)


def read(data: bytes, base: bytes = BASE) -> bytes:
    return b"".join(delta.apply(io.BytesIO(data), lambda at, size: base[at : at + size]))


def op(kind: Kind, length: int, base: int = 0) -> Operation:
    return Operation(kind=kind, length=length, base=base)


def test_insert_and_copy_in_any_order() -> None:
    plan = [op(Kind.COPY, 10, 100), op(Kind.INSERT, 3), op(Kind.COPY, 5, 7), op(Kind.COPY, 2, 12)]
    made = pack(plan, 20, literals=b"new")
    assert read(made) == BASE[100:110] + b"new" + BASE[7:12] + BASE[12:14]


def test_the_cursor_goes_along_so_that_like_structure_costs_a_byte() -> None:
    plan = [op(Kind.COPY, 7, 0), op(Kind.INSERT, 3), op(Kind.COPY, 7, 10)]
    assert len(delta.write_operations(plan)) == 5  # length and kind each, and no jump twice


@pytest.mark.parametrize(
    ("kind", "width", "first"),
    [(Kind.SUB_1, 1, "bytes"), (Kind.SUB_2, 2, "pairs"), (Kind.SUB_4, 4, "quads")],
)
def test_differences_wrap_within_their_lane(kind: Kind, width: int, first: str) -> None:
    old = b"".join(v.to_bytes(width, "little") for v in (0, 1, 256**width - 1, 5))
    moves = [256**width - 1, 1, 2, 200]
    difference = b"".join(m.to_bytes(width, "little") for m in moves)
    planes = {f"{first}_{i}": difference[i::width] for i in range(width)}
    got = read(pack([op(kind, len(old))], len(old), base_bytes=len(old), **planes), old)
    wanted = [256**width - 1, 2, 1, 205]
    assert [int.from_bytes(got[i : i + width], "little") for i in range(0, len(got), width)] == [
        w % 256**width for w in wanted
    ]


def test_nibbles_are_lanes_of_their_own() -> None:
    assert delta.add_lanes(b"\x0f\xf0", b"\x01\x11", 4) == b"\x00\x01"


def test_long_sums_equal_the_plain_ones() -> None:
    rng = random.Random(2)
    a, b = rng.randbytes(4096), rng.randbytes(4096)
    plain = b"".join(
        struct.pack("<I", (x + y) & 0xFFFFFFFF)
        for x, y in zip(struct.unpack("<1024I", a), struct.unpack("<1024I", b), strict=True)
    )
    assert delta.add_lanes(a, b, 32) == plain
    assert delta.add_lanes(a, b, 8) == bytes((x + y) & 255 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", delta.KEEPS)
def test_what_was_pruned_is_zero_and_the_rest_stays(kind: Kind) -> None:
    width = delta.WIDTHS[kind]
    kept = [True, False, True, True, False, False, True, False, False, True, True]
    bits = sum(k << i for i, k in enumerate(kept)).to_bytes(2, "little")
    size = width * len(kept)
    got = read(pack([op(kind, size, 8)], size, bits=bits))
    elements = [BASE[8 + i * width :][:width] for i in range(len(kept))]
    top = 0x80 if kind in delta.SIGNED else 0
    gone = [bytes(width - 1) + bytes([e[-1] & top]) for e in elements]
    wanted = [e if k else g for k, e, g in zip(kept, elements, gone, strict=True)]
    assert got == b"".join(wanted)


def bad_deltas() -> Iterator[tuple[str, bytes]]:
    good = pack([op(Kind.COPY, 10), op(Kind.INSERT, 3)], 13, literals=b"new")
    yield "no delta", b"x" * 500
    yield "no delta", good[:40]
    yield "ends early", good[:-14]
    yield "outside", pack([op(Kind.COPY, 10, 4090)], 10)
    yield "outside", pack([op(Kind.COPY, 10, 3), op(Kind.COPY, 1, -1)], 11)
    yield "longer", pack([op(Kind.COPY, 11)], 10)
    yield "longer", pack([op(Kind.COPY, 0)], 10)
    yield "ends early|damaged", pack([op(Kind.INSERT, 30)], 30, literals=b"new")
    yield "within an element", pack([op(Kind.SUB_4, 6)], 6, quads=b"1")
    yield "ends early|damaged", pack([op(Kind.COPY, 5)], 10)
    yield "damaged|unknown|ends early|outside|longer", good[:150] + bytes(len(good) - 150)


@pytest.mark.parametrize(("what", "data"), list(bad_deltas()))
def test_a_bad_delta_is_said_to_be_one(what: str, data: bytes) -> None:
    with pytest.raises(DeltaError, match=what):
        read(data)


def test_a_base_that_is_too_short_is_noticed() -> None:
    with pytest.raises(DeltaError, match="shorter"):
        read(pack([op(Kind.COPY, 100, 4000)], 100, base_bytes=5000))


def test_a_section_may_not_ask_for_much_memory() -> None:
    data = lzma.compress(b"x", lzma.FORMAT_ALONE, preset=9)  # its decoder wants 64 MiB
    header = delta.Header(
        base="00" * 32, base_bytes=0, target="11" * 32, target_bytes=1,
        sizes=(len(data),) + (0,) * 9,
    )  # fmt: skip
    with pytest.raises(DeltaError, match="damaged"):
        read(delta.write_header(header) + data)


def test_random_damage_never_escapes_as_anything_else() -> None:
    good = pack([op(Kind.COPY, 900, 3), op(Kind.SUB_1, 64, 8), op(Kind.INSERT, 64)], 1028,
                literals=BASE[:64], bytes=BASE[64:128])  # fmt: skip
    rng = random.Random(3)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            got = read(bytes(data))
        except DeltaError:
            continue
        assert len(got) <= 1 << 20 or delta.read_header(io.BytesIO(bytes(data))).target_bytes > 1028


def test_memory_does_not_grow_with_the_target() -> None:
    size = 24 * 1024 * 1024
    zeros = bytes(1024 * 1024)
    made = pack([op(Kind.SUB_4, size)], size, base_bytes=size,
                **{f"quads_{i}": bytes(size // 4) for i in range(4)})  # fmt: skip
    tracemalloc.start()
    try:
        total = sum(len(b) for b in delta.apply(io.BytesIO(made), lambda _at, n: zeros[:n]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == size
    assert peak < 2 * 1024 * 1024
