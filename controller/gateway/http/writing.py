"""Samples as CSV, JSON lines or Parquet, a piece at a time: what is held is a group of rows.

One row a sample: when and of what it is, then a column for each quantity. What a sensor did not
say, or a device does not have, is null (in CSV: nothing between the commas).
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from controller.domain.telemetry import Sample
from controller.errors import UserError

TAGS = ("slot", "variant", "release", "profile", "rung")
FIXED = ("time", "device", "boot_id", *TAGS)
GROUP_ROWS = 5_000
"""Rows of a Parquet row group: about 3 MB of 60 columns while it is made."""
MEDIA = {
    "jsonl": "application/jsonl",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}


class Writer(Protocol):
    """Gives bytes for rows; nothing where it waits for more of them."""

    def rows(self, samples: Sequence[Sample]) -> bytes: ...
    def end(self) -> bytes: ...


def writer(form: str, quantities: Sequence[str]) -> Writer:
    """The writer of a format, for these columns.

    Raises:
        UserError: Parquet is asked for, and pyarrow is not installed here.
    """
    kinds: Mapping[str, Callable[[Sequence[str]], Writer]] = {
        "csv": _Csv, "jsonl": _JsonLines, "parquet": _Parquet
    }  # fmt: skip
    return kinds[form](quantities)


class _Csv:
    def __init__(self, quantities: Sequence[str]) -> None:
        self._quantities = quantities
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow([*FIXED, *quantities])

    def rows(self, samples: Sequence[Sample]) -> bytes:
        for sample in samples:
            said = [sample.values.get(name) for name in self._quantities]
            self._writer.writerow([_iso(sample), *_names(sample), *said])
        return self.end()

    def end(self) -> bytes:
        made = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return made


class _JsonLines:
    def __init__(self, quantities: Sequence[str]) -> None:
        self._quantities = quantities

    def rows(self, samples: Sequence[Sample]) -> bytes:
        return "".join(f"{json.dumps(self._row(sample))}\n" for sample in samples).encode()

    def _row(self, sample: Sample) -> dict[str, Any]:
        names = dict(zip(FIXED, (_iso(sample), *_names(sample)), strict=True))
        return names | {name: sample.values.get(name) for name in self._quantities}

    def end(self) -> bytes:
        return b""


class _Sink(io.RawIOBase):
    """Takes what Parquet writes, and gives it away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _Parquet:
    def __init__(self, quantities: Sequence[str]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UserError(
                "Parquet needs pyarrow where the controller runs: pip install 'fitment[export]';"
                " or ask for --format csv or jsonl, which need nothing"
            ) from error
        self._pa, self._quantities = pa, quantities
        names = [pa.field(name, pa.string()) for name in FIXED[1:-1]]
        numbers = [pa.field(name, pa.float64()) for name in quantities]
        time = pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False)
        self._schema = pa.schema([time, *names, pa.field("rung", pa.int32()), *numbers])
        self._sink, self._waiting = _Sink(), list[Sample]()
        self._writer = parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def rows(self, samples: Sequence[Sample]) -> bytes:
        self._waiting += samples
        while len(self._waiting) >= GROUP_ROWS:
            self._group(self._waiting[:GROUP_ROWS])
            del self._waiting[:GROUP_ROWS]
        return self._sink.taken()

    def end(self) -> bytes:
        if self._waiting:
            self._group(self._waiting)
        self._writer.close()
        return self._sink.taken()

    def _group(self, samples: Sequence[Sample]) -> None:
        columns: list[list[Any]] = [[round(s.wall_s * 1e6) for s in samples]]
        named = zip(*(_names(sample) for sample in samples), strict=True)
        *texts, rungs = (list(column) for column in named)
        columns += texts
        columns.append([int(r) if r and str(r).isdecimal() else None for r in rungs])
        columns += [[s.values.get(name) for s in samples] for name in self._quantities]
        arrays = [
            self._pa.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))


def _iso(sample: Sample) -> str:
    at = dt.datetime.fromtimestamp(sample.wall_s, tz=dt.timezone.utc)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _names(sample: Sample) -> tuple[str | None, ...]:
    """All of `FIXED` but the time."""
    tags = (sample.tags.get(name) or None for name in TAGS)
    return (sample.device, sample.boot_id, *tags)
