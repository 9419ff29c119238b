"""The ledger: what this device has transferred and written, on its disk, and what is left of it.

Three counts come together. A fetch worker keeps a tally of what came, a line every few MiB, so
that a worker that is killed, or a power loss, hides no more than these. A link
counts the payloads that it was given and gave: telemetry, reports, orders; the frames, handshakes
and headers below them are not in it, nor is signed metadata. What was written is the kernel's own
word, ``write_bytes`` of ``/proc/self/io``, which takes in the workers that have ended; a kernel
that has none gives an estimate.

The ledger is written when a transfer follows another, and every quarter of an hour at most; what
lies between a power loss takes, but for the tally.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent import durable
from agent.domain import allowance as rules
from agent.domain.allowance import Allowance, Books, Hold, Metering, Spent
from agent.jobs import TALLY
from fitment.core import plain
from fitment.core.deployment import AllowanceReport

log = logging.getLogger(__name__)

SAVE_S: Final = 900.0
LOOK_S: Final = 30.0
"""Between two looks at what was written, and at the link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What a fetch worker may spend, and where it writes down what it has."""

    tally: str
    tally_id: str
    most_bytes: int | None


class Ledger:
    """One device's."""

    def __init__(
        self, folder: Path, *, metering: Callable[[str], Metering],
        written: Callable[[], int | None],
    ) -> None:  # fmt: skip
        """``metering`` is given the root of the device's files; both are asked now and then."""
        self._path, self._tally = folder / "ledger.json", folder / TALLY
        self._metering, self._written = metering, written
        self._lost = self._refused = ""
        self.books = self._read()
        self._allowance, self._root, self._at_unix = Allowance(), "/", 0.0
        self._dirty = False
        self._settled = self._in_books()  # how much of which transfer is in the file
        self._saved_s: float | None = None
        self._looked_s = -LOOK_S
        self._asked_s: float | None = None  # look of which `_known` is
        self._known = Metering()
        self._link_bytes = self._written_bytes = 0

    def tick(
        self, allowance: Allowance, *, root: str, wall_unix: float, floor_unix: float,
        now_s: float, link_bytes: int,
    ) -> None:  # fmt: skip
        """Count what came since the last look, and write it down when it is time.

        ``link_bytes``: payloads that the link has passed since this process began.
        """
        self._allowance, self._root = allowance, root
        self._at_unix = self.books.moment(wall_unix, floor_unix)
        passed, self._link_bytes = link_bytes - self._link_bytes, link_bytes
        if now_s >= self._looked_s + LOOK_S:
            self._looked_s = now_s
            self._count(passed)
        elif passed:
            self._add(passed, 0)
        self._saved_s = now_s if self._saved_s is None else self._saved_s
        if self._dirty and now_s >= self._saved_s + SAVE_S:
            self._saved_s = now_s  # also where the disk refuses: not at every step again
            self.save()

    @property
    def problem(self) -> str:
        """What is wrong with the file; empty: nothing."""
        return self._refused or self._lost

    def spent(self) -> Spent:
        """Of this month and day, up to now."""
        self._count(0)
        return rules.spent(self.books, self._allowance, self._at_unix)

    def hold(self, missing_bytes: int, *, asked: bool, delta: bool) -> Hold | None:
        """Why a transfer of so many bytes has to wait; None when it may begin."""
        return rules.hold(
            self._allowance, self.spent(), self.metering(), missing_bytes=missing_bytes,
            at_unix=self._at_unix, asked=asked, delta=delta,
        )  # fmt: skip

    def purse(self) -> Purse:
        """For a fetch that begins now; what the one before it spent is on the disk then."""
        left = rules.transfers_left(self._allowance, self.spent())
        if self._in_books() != self._settled and self.save():
            durable.remove(self._tally)
        return Purse(tally=str(self._tally), tally_id=uuid.uuid4().hex, most_bytes=left)

    def metering(self) -> Metering:
        """What is known of the link; nobody is asked where the answer would change nothing."""
        if self._allowance.metered is not rules.Metered.AUTO:
            return said(self._allowance)
        if self._looked_s != self._asked_s:
            self._asked_s, self._known = self._looked_s, self._metering(self._root)
        return self._known

    def report(self) -> AllowanceReport:
        """For the controller."""
        return as_report(self._allowance, self.spent(), self.metering())

    def share(self) -> float:
        """Of the allowance that is used up most, at the last look."""
        return rules.spent(self.books, self._allowance, self._at_unix).share(self._allowance)

    def save(self) -> bool:
        """Write the ledger down. Whether it was: a disk that refuses leaves a `problem`."""
        try:
            durable.write(self._path, json.dumps(plain.to_plain(self.books)).encode())
        except OSError as error:
            self._refused = f"the ledger of transfers cannot be written: {error}"
            log.warning("action=ledger_refused reason=%s", error)
            return False
        self._dirty, self._settled, self._refused = False, self._in_books(), ""
        return True

    def close(self, link_bytes: int) -> None:
        """The agent ends; its link has passed so much."""
        self._count(link_bytes - self._link_bytes)
        if self._dirty:
            self.save()

    def _in_books(self) -> tuple[str, int]:
        return self.books.tally, self.books.tally_bytes

    def _count(self, passed: int) -> None:
        tally, received = _tally(self._tally)
        fresh = 0
        if tally and (tally, received) != (self.books.tally, self.books.tally_bytes):
            self.books, fresh = self.books.settle(tally, received)
        written = self._written()
        if written is None:  # as much as the transfers make likely
            self._add(passed + fresh, rules.WRITE_FACTOR * fresh)
            return
        since, self._written_bytes = written - self._written_bytes, written
        self._add(passed + fresh, max(0, since))

    def _add(self, transferred: int, written: int) -> None:
        if transferred or written:
            self.books = self.books.add(
                self._allowance, self._at_unix, transferred=transferred, written=written
            )
            self._dirty = True

    def _read(self) -> Books:
        try:
            return read(self._path)
        except FileNotFoundError:
            return Books()
        except (OSError, ValueError) as error:
            self._lost = f"the ledger of transfers cannot be read and begins anew: {error}"
            log.warning("action=ledger_lost reason=%s", error)
            return Books()


def read(path: Path) -> Books:
    """The ledger as it lies on the disk.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    return plain.from_plain(Books, json.loads(path.read_bytes()))


def stored(folder: Path, allowance: Allowance, wall_unix: float, floor_unix: float) -> Spent:
    """What is spent by a data directory's ledger, read beside the agent that writes it."""
    try:
        books = read(folder / "ledger.json")
    except (OSError, ValueError):
        books = Books()
    tally, received = _tally(folder / TALLY)
    at_unix = books.moment(wall_unix, floor_unix)
    if tally:
        books, fresh = books.settle(tally, received)
        books = books.add(allowance, at_unix, transferred=fresh, written=0) if fresh else books
    return rules.spent(books, allowance, at_unix)


def said(allowance: Allowance) -> Metering:
    """What the operator says of the link; `Metering` of nothing where it is left to the machine."""
    if allowance.metered is rules.Metered.AUTO:
        return Metering()
    return Metering(
        metered=allowance.metered is rules.Metered.ALWAYS, why="[allowance] metered says so"
    )


def as_report(allowance: Allowance, spent: Spent, metering: Metering) -> AllowanceReport:
    """The same for the wire and for people."""
    return AllowanceReport(
        transferred_bytes=spent.transferred,
        transfer_bytes_per_month=allowance.transfer_bytes_per_month,
        month_ends_unix=spent.month_ends_unix,
        written_bytes=spent.written,
        write_bytes_per_day=allowance.write_bytes_per_day,
        metered=metering.metered,
        metered_why=metering.why,
    )


def _tally(path: Path) -> tuple[str, int]:
    """Id and bytes of the newest transfer; empty before the first. Half a line says nothing."""
    try:
        lines = [line for line in path.read_text().split("\n")[:-1] if line]
        tally, _, count = lines[-1].partition(" ")
        return tally, int(count)
    except (OSError, ValueError, IndexError):
        return "", 0
