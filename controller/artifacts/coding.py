"""Entropy coding of a delta's sections: the standard library's coder that suits best."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Sequence

from fitment.core import delta
from fitment.core.delta import Section

_CODERS = ((3, 0, 2), (3, 0, 0), (0, 0, 0), (0, 2, 2))  # (lc, lp, pb) of LZMA
_SAMPLE = 256 * 1024  # a section's coder is chosen on its beginning
_EXACT = 128 * 1024  # bytes up to which ways are compared by what they really give
_THOROUGH = 1024 * 1024  # above it the strongest preset takes minutes and gains nothing


def estimate(sections: Sequence[bytes]) -> int:
    """About how many bytes `compress` makes of them; exact where that is quick."""
    if sum(map(len, sections)) <= _EXACT:
        return sum(len(compress(data, number)) for number, data in enumerate(sections))
    return sum(len(lzma.compress(data, lzma.FORMAT_ALONE, preset=1)) for data in sections if data)


def compress(data: bytes, section: int) -> bytes:
    """One section as `fitment.core.delta` reads it; nothing for nothing."""
    if not data:
        return b""
    top = delta.MAX_LITERAL_DICTIONARY if section == Section.LITERALS else delta.MAX_DICTIONARY
    dictionary = 4096
    while dictionary < min(len(data), top):
        dictionary *= 2
    sample = data[:_SAMPLE]
    best = min(_CODERS, key=lambda coder: len(_lzma(sample, coder, dictionary)))
    return min(_lzma(data, best, dictionary), bz2.compress(data, delta.BZ2_LEVEL), key=len)


def _lzma(data: bytes, coder: tuple[int, int, int], dictionary: int) -> bytes:
    lc, lp, pb = coder
    preset = 9 | lzma.PRESET_EXTREME if len(data) <= _THOROUGH else 6
    filters = [{
        "id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": dictionary,
        "lc": lc, "lp": lp, "pb": pb,
    }]  # fmt: skip
    return lzma.compress(data, format=lzma.FORMAT_ALONE, filters=filters)
