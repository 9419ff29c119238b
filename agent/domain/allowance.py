"""What a device may take: bytes from the network a month, bytes to its disk a day, metered links.

Pure. Counts stand under the date on which their period began, by the latest moment that can be
trusted. Clocks of devices jump: what was counted under a later date than today's was counted
while the clock was wrong, and counts for today as well, so going back gives nothing away. When the
next period begins, what still lies in the future is dropped: it was of the period that ended.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

LOOK_S: Final = 30.0
"""Between two looks at most: links and settings change meanwhile."""
DELTA_LOOK_S: Final = 3600.0
"""Between two questions for a delta where the whole file is too much: each costs a connection."""
WRITE_FACTOR: Final = 3
"""Bytes written for one of a transport file: itself and what is unpacked of it. How much that is
nobody knows before, so this is a guess on the safe side; what was really written is counted."""
SPARSE_SHARE: Final = 0.8
LAST_SHARE: Final = 0.95
"""Of an allowance; from there on samples are few, and then only the latest are kept."""
SPARSE_FACTOR: Final = 6
LAST_FACTOR: Final = 60
LAST_KEPT: Final = 16
"""Batches that wait for the controller when next to nothing is left."""
_KEPT_PERIODS: Final = 6
_LATEST_UNIX: Final = 253_402_300_799.0  # 9999-12-31: dates of five digits sort wrongly


class Metered(enum.Enum):
    """Whether the operator says that the link is metered."""

    AUTO = "auto"  # as the machine says; unknown counts as not metered
    ALWAYS = "always"
    NEVER = "never"


class MeteredTransfers(enum.Enum):
    """What bundles may do on a metered link."""

    WAIT = "wait"  # for another link, unless the order asks for this one
    ALLOW = "allow"  # come as on any other


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What an operator may set; 0: no cap."""

    transfer_bytes_per_month: int = 0
    write_bytes_per_day: int = 0
    month_starts_on: int = 1  # day, 1 to 28: when the provider begins to count anew
    metered: Metered = Metered.AUTO
    metered_transfers: MeteredTransfers = MeteredTransfers.WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """What is known of the link."""

    metered: bool | None = None  # None: the machine does not say
    why: str = ""  # who says so, or why nobody does


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """Bytes by the date on which their period began."""

    counted: Mapping[str, int] = field(default_factory=dict)
    last: str = ""  # date under which was counted last

    def add(self, date: str, count: int) -> Counter:
        """The same with ``count`` more bytes in the period that began on ``date``."""
        turned = date > self.last
        kept = {d: n for d, n in self.counted.items() if not (turned and d > date)}
        kept[date] = kept.get(date, 0) + count
        newest = sorted(kept)[-_KEPT_PERIODS:]
        return Counter(counted={d: kept[d] for d in newest}, last=date)

    def since(self, date: str) -> int:
        """Bytes of the period that began on ``date``, and what stands under later ones."""
        turned = date > self.last
        return sum(n for d, n in self.counted.items() if d == date or (d > date and not turned))


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All that is counted; ``tally`` is how much of which transfer is in it."""

    transfers: Counter = field(default_factory=Counter)
    writes: Counter = field(default_factory=Counter)
    tally: str = ""
    tally_bytes: int = 0
    seen_unix: float = 0.0  # moment at which was counted last

    def moment(self, wall_unix: float, floor_unix: float) -> float:
        """Now, as far as it can be trusted: a clock behind the floor stands still instead."""
        return wall_unix if wall_unix >= floor_unix else max(floor_unix, self.seen_unix)

    def add(self, allowance: Allowance, at_unix: float, *, transferred: int, written: int) -> Books:
        """The same with what came, went and was written since."""
        month, _ = month_of(at_unix, allowance.month_starts_on)
        day, _ = day_of(at_unix)
        return replace(
            self,
            transfers=self.transfers.add(month, transferred),
            writes=self.writes.add(day, written),
            seen_unix=at_unix,
        )

    def settle(self, tally: str, count: int) -> tuple[Books, int]:
        """The same with a transfer's own count taken in, and how many bytes of it are new."""
        before = self.tally_bytes if tally == self.tally else 0
        return replace(self, tally=tally, tally_bytes=count), max(0, count - before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Bytes of this month and this day, and when they are over."""

    transferred: int = 0
    written: int = 0
    month_ends_unix: float = 0.0
    day_ends_unix: float = 0.0

    def share(self, allowance: Allowance) -> float:
        """Of the allowance that is used up most; 0 where nothing is capped."""
        shares = (
            (self.transferred, allowance.transfer_bytes_per_month),
            (self.written, allowance.write_bytes_per_day),
        )
        return max((spent / cap for spent, cap in shares if cap), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why a transfer waits."""

    reason: str
    after_s: float  # until the next look is worth it


def spent(books: Books, allowance: Allowance, at_unix: float) -> Spent:
    """What of the allowance is gone at a moment that is trusted."""
    month, month_ends = month_of(at_unix, allowance.month_starts_on)
    day, day_ends = day_of(at_unix)
    return Spent(
        transferred=books.transfers.since(month), written=books.writes.since(day),
        month_ends_unix=month_ends, day_ends_unix=day_ends,
    )  # fmt: skip


def hold(
    allowance: Allowance, gone: Spent, metering: Metering, *, missing_bytes: int, at_unix: float,
    asked: bool = False, delta: bool = False,
) -> Hold | None:  # fmt: skip
    """Why a transport file may not be fetched now; None when it may.

    Args:
        allowance: as the operator set it.
        gone: as `spent` says.
        metering: what is known of the link.
        missing_bytes: of the transport file, that are still to come.
        at_unix: the latest moment that can be trusted.
        asked: the order asks for a metered link.
        delta: a delta may do with less of the network: only the worker learns how much.
    """
    if missing_bytes <= 0:
        return None  # what is here costs nothing
    waits = allowance.metered_transfers is MeteredTransfers.WAIT and not asked
    if waits and is_metered(allowance, metering):
        return Hold(reason=_metered(metering, missing_bytes), after_s=LOOK_S)
    left = transfers_left(allowance, gone)
    if left is not None and left < missing_bytes and not (delta and left > 0):
        cap = allowance.transfer_bytes_per_month
        return _over(missing_bytes, "transfers", left, cap, "month", gone.month_ends_unix, at_unix)
    needs = WRITE_FACTOR * missing_bytes
    cap = allowance.write_bytes_per_day
    if cap and cap - gone.written < needs:  # a delta is rebuilt and unpacked: it writes no less
        left = max(0, cap - gone.written)
        return _over(needs, "writes", left, cap, "day", gone.day_ends_unix, at_unix)
    return None


def transfers_left(allowance: Allowance, gone: Spent) -> int | None:
    """Bytes of the month that are left; None without a cap."""
    cap = allowance.transfer_bytes_per_month
    return max(0, cap - gone.transferred) if cap else None


def is_metered(allowance: Allowance, metering: Metering) -> bool:
    """Whether the link counts as metered; one of which nothing is known does not."""
    if allowance.metered is Metered.AUTO:
        return metering.metered is True
    return allowance.metered is Metered.ALWAYS


def sample_factor(share: float) -> int:
    """By how much the pause between two samples grows."""
    if share < SPARSE_SHARE:
        return 1
    return SPARSE_FACTOR if share < LAST_SHARE else LAST_FACTOR


def kept_batches(share: float, usual: int) -> int:
    """How many samples may wait: next to the cap only the latest are worth their bytes."""
    return usual if share < LAST_SHARE else min(usual, LAST_KEPT)


def month_of(at_unix: float, starts_on: int) -> tuple[str, float]:
    """The date on which the month began, and the moment of its end, in UTC."""
    now = _moment(at_unix)
    begun = now.replace(day=starts_on, hour=0, minute=0, second=0, microsecond=0)
    if now < begun:
        begun = (begun - dt.timedelta(days=28)).replace(day=starts_on)
    ends = (begun + dt.timedelta(days=31)).replace(day=starts_on)
    return begun.date().isoformat(), ends.timestamp()


def day_of(at_unix: float) -> tuple[str, float]:
    """The date, and the moment of its end, in UTC."""
    begun = _moment(at_unix).replace(hour=0, minute=0, second=0, microsecond=0)
    return begun.date().isoformat(), begun.timestamp() + 86400.0


def size(count: int) -> str:
    """Bytes for people."""
    if count < 10_000:
        return f"{count} bytes"
    if count < 10_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1e6:.1f} MB"


def _moment(at_unix: float) -> dt.datetime:
    # A year before the last: a month's end must be a date as well.
    return dt.datetime.fromtimestamp(
        min(max(at_unix, 0.0), _LATEST_UNIX - 366 * 86400.0), tz=dt.timezone.utc
    )


def _metered(metering: Metering, missing_bytes: int) -> str:
    return (
        f"this needs {size(missing_bytes)}, and the link is metered ({metering.why}): it waits"
        " for another link, or an order that asks for this one (fitment rollout create --metered)"
    )


def _over(
    needs: int, what: str, left: int, cap: int, period: str, ends_unix: float, at_unix: float
) -> Hold:  # fmt: skip
    key = f"{what.removesuffix('s')}_bytes_per_{period}"
    head = f"this needs {size(needs)} of {what}, {size(left)} of the {period}'s {size(cap)} left"
    when = _moment(ends_unix).strftime("%Y-%m-%d %H:%M UTC")
    goes_on = f"it goes on when the {period} is over ({when}) or [allowance] {key} is raised"
    if needs > cap:
        goes_on = f"it goes on only when [allowance] {key} is raised"
    after_s = min(LOOK_S, max(1.0, ends_unix - at_unix))
    return Hold(reason=f"{head}: {goes_on}", after_s=after_s)
