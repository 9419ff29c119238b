"""What a fetch may spend, and the tally of what it has: a line in a file every few MiB.

Lines are only added, so the one that a power loss cuts in half costs no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from agent import durable
from agent.domain.allowance import size
from agent.jobs import SPENT, FetchJob
from agent.workers.child import JobError

_TALLY_BYTES = 4 * 1024 * 1024  # between two lines; what a kill may hide


class Purse:
    """Counts the payload of one job's transfers."""

    def __init__(self, job: FetchJob) -> None:
        self._job = job
        self._received = self._told = 0

    def need(self, count: int) -> None:
        """So many bytes are to come.

        Raises:
            JobError: ``allowance``; they are more than may come.
        """
        most = self._job.most_bytes
        if most is not None and count > 0 and self._received + count > most:
            left = max(0, most - self._received)
            raise JobError(
                SPENT,
                f"this needs {size(count)} of transfers, {size(left)} of the month's are left: it "
                "goes on when the month is over, or [allowance] transfer_bytes_per_month is raised",
            )

    def add(self, count: int) -> None:
        """Bytes that came, whatever becomes of them."""
        self._received += count
        if self._received - self._told >= _TALLY_BYTES:
            self.tell()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """However the block ends, what came is in the tally."""
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a full disk: the first error says it
                self.tell()

    def tell(self) -> None:
        """Add a line; the file is new where this is the first transfer since the last count."""
        if not self._job.tally or self._received == self._told:
            return
        path = Path(self._job.tally)
        fresh = not path.exists()
        with durable.open_file(path, "ab") as file:
            file.write(f"\n{self._job.tally_id} {self._received}\n".encode())
            durable.sync(file)
        if fresh:
            durable.sync_folder(path.parent)
        self._told = self._received
