"""What can go wrong in the agent, as one tree.

AgentError                a person must do something; the message says what
├── ConfigError           settings are missing, unknown or contradict each other
├── NotEnrolledError      the device has no identity yet
├── JournalError          the journal cannot be read or written
├── SlotError             the slot folders cannot be read or written
├── UnreachableError      the controller does not answer
│   └── PendingError      it answers, and an operator has to
└── WorkerError           a worker that a command waited for failed
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of all; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ConfigError(AgentError):
    """Settings are missing, unknown or contradict each other."""

    exit_code = 2


class NotEnrolledError(AgentError):
    """The device has no identity yet."""

    exit_code = 3


class UnreachableError(AgentError):
    """The controller does not answer."""

    exit_code = 4


class PendingError(UnreachableError):
    """An operator has to let the device in; ask again after ``retry_after_s``."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class JournalError(AgentError):
    """The journal cannot be read or written."""


class SlotError(AgentError):
    """The slot folders cannot be read or written."""


class WorkerError(AgentError):
    """A worker that a command waited for failed."""
