"""The controller's exceptions.

    FitmentError
    ├── UserError            something the caller can mend; the message says how
    │   ├── NotFound
    │   ├── Conflict
    │   └── WorkloadError    a workload file that cannot be used
    ├── TrustError           a signature, certificate or token does not hold
    ├── Forbidden            who asks has not the role for it
    ├── Temporary            try again later
    │   ├── DiskFull         no room; what was asked for was not done
    │   └── LeaseLost        another controller acts in place of this one
    └── FitError             a fit cannot be done

Every error has a stable ``code`` for scripts and the wire.
"""

from __future__ import annotations

import errno


class FitmentError(Exception):
    """Root of all of them."""

    code = "internal"


class UserError(FitmentError):
    """Something the caller can mend; the message says how."""

    code = "invalid"


class NotFound(UserError):
    """Nothing has this name."""

    code = "not_found"


class Conflict(UserError):
    """It is there already, or is no longer in a state that allows this."""

    code = "conflict"


class WorkloadError(UserError):
    """A workload file that cannot be used."""

    code = "workload"


class TrustError(FitmentError):
    """A signature, certificate or token does not hold."""

    code = "untrusted"


class Forbidden(FitmentError):
    """Who asks has not the role that this needs; the message names it."""

    code = "forbidden"


class Temporary(FitmentError):
    """Try again after ``retry_after_s``."""

    code = "busy"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFull(Temporary):
    """There is no room; what was asked for was not done, and may be asked again."""

    code = "disk_full"

    def __init__(self, message: str, retry_after_s: float = 30.0) -> None:
        super().__init__(message, retry_after_s)


class LeaseLost(Temporary):
    """Another controller acts in place of this one, or may; nothing was done."""

    code = "lease_lost"


class FitError(FitmentError):
    """A fit cannot be done."""

    code = "fit"


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or somebody's share of it, is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_error(error: OSError) -> FitmentError:
    """What the operating system refused, in words: which file, what, and what to do."""
    place = error.filename2 or error.filename  # of two, the second is written to
    named = f"{place}: " if place else ""
    why = error.strerror or str(error) or type(error).__name__
    if is_disk_full(error):
        return DiskFull(f"{named}the disk is full: make room there and try again ({why})")
    return FitmentError(f"{named}{why}: check that the path is there and may be used")
