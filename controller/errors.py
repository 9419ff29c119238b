"""The controller's exceptions.

    FitmentError
    ├── UserError            something the caller can mend; the message says how
    │   ├── NotFound
    │   ├── Conflict
    │   └── WorkloadError    a workload file that cannot be used
    ├── TrustError           a signature, certificate or token does not hold
    ├── Temporary            try again later
    └── FitError             a fit cannot be done

Every error has a stable ``code`` for scripts and the wire.
"""

from __future__ import annotations


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


class Temporary(FitmentError):
    """Try again after ``retry_after_s``."""

    code = "busy"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FitError(FitmentError):
    """A fit cannot be done."""

    code = "fit"
