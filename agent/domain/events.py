"""What can happen to a deployment."""

from __future__ import annotations

import enum


class Event(enum.Enum):
    """One thing that happened; with the state it decides where a deployment goes."""

    ASSIGNED = "assigned"  # the controller wants it
    DONE = "done"  # the state's work is finished
    NOT_ASKED = "not_asked"  # the state had no work to do, or its work was optional and failed
    JUDGED_GOOD = "judged_good"  # all gates hold
    JUDGED_BAD = "judged_bad"  # a gate does not hold, or the model answers wrongly on trial
    FAILED = "failed"  # this try failed, another may not; burns an attempt
    BUSY = "busy"  # the other side is away or asked to come later; burns no attempt
    EXHAUSTED = "exhausted"  # the last try failed
    HELD = "held"  # outside its maintenance windows, or beyond what the device may transfer
    OPENED = "opened"  # a window is open: what was staged is measured now; or it may transfer
    REFETCH = "refetch"  # the received file is damaged; it was deleted and may be fetched once more
    STACK_CHANGED = "stack_changed"  # what was checked and measured holds for another stack
    PERMANENT = "permanent"  # it failed and trying again cannot help
    REJECTED = "rejected"  # it is not for this device
    TIMED_OUT = "timed_out"  # a deadline passed
    CANCELLED = "cancelled"  # the controller took it back
    SUPERSEDED = "superseded"  # a newer assignment for the slot came
    REPORTED = "reported"  # the controller knows how it ended
