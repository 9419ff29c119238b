"""How long an agent waits for an answer or a connection, and how much it sends meanwhile.

Pure, and in one place: the simulator's devices keep to the same rules.
"""

from __future__ import annotations

from typing import Final

OUTBOX_LIMIT: Final = 2048
"""Batches kept; at one of 1 KiB every ten seconds, six hours in 2 MiB."""
WINDOW: Final = 16
"""Batches on the way without an ack."""
RESEND_S: Final = 30.0
"""After this long without an ack the way is taken to have lost them; each time in a row doubles it,
up to `RESEND_MOST_S`, and one batch is sent to try: a fleet that sends all it has to a controller
that is behind would keep it there."""
RESEND_MOST_S: Final = 600.0
RECONNECT_MAX_S: Final = 60.0
STEADY_S: Final = 30.0
"""A connection that lasted so long was no failed try."""
_DOUBLINGS: Final = 16


def resend_s(tries: int) -> float:
    """How long to wait for an ack after ``tries`` waits in vain."""
    return min(RESEND_MOST_S, RESEND_S * 2.0 ** min(tries, _DOUBLINGS))


def room(tries: int, on_the_way: int) -> int:
    """Batches that may be sent now."""
    return (WINDOW if tries == 0 else 1) - on_the_way


def reconnect_s(
    tries: int, jitter_s: float, chances: tuple[float, float], *, base_s: float = 1.0
) -> float:
    """How long to wait before the next try to connect, after ``tries`` in a row.

    Args:
        tries: failed tries in a row.
        jitter_s: by which the controller scatters its devices.
        chances: two draws from 0..1, for both kinds of scatter.
        base_s: the first wait at most.
    """
    full_s = min(RECONNECT_MAX_S, base_s * 2.0 ** min(tries, _DOUBLINGS))
    return full_s * (0.5 + chances[0] / 2) + jitter_s * chances[1]
