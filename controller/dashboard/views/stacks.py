"""Announced stacks as the page of triggers shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.dashboard.views.words import State, Tone
from controller.domain.stacks import DeviceStanding, StackAnnouncement, StackState, Standing

SHOWN_MOST = 50
NAMED_MOST = 3
"""Devices whose reason is shown; the command has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRow:
    """One announced stack."""

    id: str
    name: str
    profile: str
    device: str  # that has it
    state: State
    found: tuple[str, ...]  # what each slot will run, with its numbers
    said: str  # what it waits for, or what came of it
    ready: str  # how many devices stand where
    late: tuple[str, ...]  # who is not ready, and why
    at: float


_TONES: Mapping[StackState, Tone] = {
    StackState.ANNOUNCED: Tone.WARN,
    StackState.FITTING: Tone.BUSY,
    StackState.TESTING: Tone.BUSY,
    StackState.QUALIFIED: Tone.BUSY,
    StackState.ROLLING_OUT: Tone.BUSY,
    StackState.PREPARED: Tone.GOOD,
    StackState.ARRIVED: Tone.QUIET,
    StackState.REFUSED: Tone.BAD,
    StackState.WITHDRAWN: Tone.QUIET,
}


def stack_rows(
    found: Sequence[StackAnnouncement], standings: Mapping[str, Sequence[DeviceStanding]]
) -> tuple[StackRow, ...]:
    """Open ones first, then the newest. ``standings``: of those that are open, by id."""
    ordered = sorted(found, key=lambda s: (bool(s.closed_at), -s.created_at))
    return tuple(_row(each, standings.get(each.id, ())) for each in ordered[:SHOWN_MOST])


def _row(now: StackAnnouncement, devices: Sequence[DeviceStanding]) -> StackRow:
    late = [d for d in devices if d.standing is Standing.NOT_READY]
    more = (f"and {len(late) - NAMED_MOST} more",) if len(late) > NAMED_MOST else ()
    counts = [(each, sum(d.standing is each for d in devices)) for each in Standing]
    return StackRow(
        id=now.id, name=now.name, profile=now.profile, device=now.device,
        state=State(word=now.state.value.replace("_", " "), tone=_TONES[now.state]),
        found=tuple(
            f"{slot}: {part.name}; {part.tested or part.reason}"
            for slot, part in sorted(now.parts.items()) if part.name
        ),
        said=now.result or now.waits, at=now.created_at,
        ready=", ".join(f"{n} {each.value.replace('_', ' ')}" for each, n in counts if n),
        late=(*(f"{d.device}: {d.reason}" for d in late[:NAMED_MOST]), *more),
    )  # fmt: skip
