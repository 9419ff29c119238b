"""What befalls a modelled fleet in a month: weather, drivers, kernels, dust. Rows, and their truth.

Everything is a step or a slope at a stated day, so what is right for each device at each hour is
known, and a policy can be held against it. Round figures, no board's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.simulator.physics import LAYERS, Machine, surroundings_c

DAYS = 30
PACE: Mapping[str, float] = {"exact": 1.0, "balanced": 0.5, "lean": 0.3}
"""Of the class's fp32 kernels."""
DROP: Mapping[str, float] = {"exact": 0.0, "balanced": 0.004, "lean": 0.009}
"""Of accuracy, against the model as it was trained."""
TAIL = 1.1
"""p95 of the median."""
LIMIT_MS: Mapping[str, float] = {
    "raspberry-pi-5": 2.3, "jetson-orin-nano": 1.15, "rk3588": 2.1,
}  # fmt: skip
"""The latency budget of each class: `balanced` keeps to it, and `exact` does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Something that befalls all devices of a class, from a day on (and until one)."""

    profile: str
    day: float
    says: str
    until: float = DAYS + 1.0
    warmer_c: float = 0.0
    paces: Mapping[str, float] | None = None  # variant to times its latency; "": all of them
    stack: str = ""  # the driver that brings it, device by device within `spread_days`
    spread_days: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Something that befalls one device of a class."""

    profile: str
    number: int  # among the devices of its class
    day: float
    says: str
    dust: float = 1.0  # times its rise in temperature
    slower: float = 1.0
    memory_pressure: float = 0.0  # percent more


SHARED = (
    Shared(profile="raspberry-pi-5", day=10, until=18, warmer_c=30.0,
           says="a heat wave: all of them throttle, day and night"),
    Shared(profile="jetson-orin-nano", day=5, stack="2.0", spread_days=1.0,
           paces={"balanced": 2.2},
           says="a driver goes out over a day, and slows the int8 kernels of `balanced`"),
    Shared(profile="jetson-orin-nano", day=14, stack="3.0", spread_days=1.0, paces={"": 0.6},
           says="the next driver mends it, and is faster: `exact` becomes affordable"),
    Shared(profile="rk3588", day=8, until=18, paces={"balanced": 1.6},
           says="a patch of the runtime, in no stack hash, slows `balanced` down"),
    Shared(profile="rk3588", day=18, paces={"": 0.5},
           says="firmware raises the clocks: `exact` becomes affordable"),
)  # fmt: skip
ALONE = (
    Alone(profile="raspberry-pi-5", number=2, day=4, dust=1.8, says="a clogged fan"),
    Alone(profile="jetson-orin-nano", number=2, day=8, slower=1.6, says="a dying accelerator"),
    Alone(profile="rk3588", number=2, day=12, slower=1.5, memory_pressure=60.0,
          says="something else fills its memory"),
)  # fmt: skip
DUST_A_DAY = 0.002
"""What every device's rise in temperature grows by."""
LAST_EVENT_DAY = 18.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How a device truly is at a moment."""

    chip_c: float
    slowed: float  # by heat
    ms: Mapping[str, float]  # variant to median latency
    memory_pressure: float

    def tail_ms(self, variant: str) -> float:
        """p95, without noise."""
        return TAIL * self.ms[variant]


def stacks(profile: str, share: float) -> list[tuple[float, str]]:
    """Days and drivers that a device gets; ``share`` (0..1) is its place in each wave."""
    return [(e.day + share * e.spread_days, e.stack) for e in SHARED
            if e.profile == profile and e.stack]  # fmt: skip


def state(
    machine: Machine, profile: str, number: int, stack: str, *, at_s: float, day: float
) -> State:
    """The truth about one device.

    Args:
        machine: its own deviation from its class.
        profile: its class.
        number: its place among the devices of its class.
        stack: the driver that it runs now.
        at_s: the moment, for the sun.
        day: days since the beginning.
    """
    going = [e for e in SHARED if e.profile == profile and _holds(e, stack, day)]
    own = [e for e in ALONE if (e.profile, e.number) == (profile, number) and day >= e.day]
    dust = machine.dust * (1.0 + DUST_A_DAY * day)
    slower = 1.0
    for one in own:
        dust, slower = dust * one.dust, slower * one.slower
    outside = surroundings_c(at_s, sum(e.warmer_c for e in going))
    chip_c = outside + dust * machine.board.rise_c
    slowed = machine.slowed(chip_c)
    base = sum(LAYERS) * machine.board.us_per_mmac["fp32"] / 1000.0 * machine.speed
    times = {name: base * pace * slower * slowed for name, pace in PACE.items()}
    for event in going:
        for name, pace in (event.paces or {}).items():
            times = {v: ms * (pace if name in ("", v) else 1.0) for v, ms in times.items()}
    return State(
        chip_c=chip_c, slowed=slowed, ms=times,
        memory_pressure=2.0 + sum(e.memory_pressure for e in own),
    )  # fmt: skip


def is_ill(profile: str, number: int) -> bool:
    """Whether something befalls this device alone."""
    return any((one.profile, one.number) == (profile, number) for one in ALONE)


def _holds(event: Shared, stack: str, day: float) -> bool:
    return stack == event.stack if event.stack else event.day <= day < event.until


OVER_POINTS = 2.0
"""Points of accuracy that an hour above the budget costs; and as many for each 100 % above it."""


def cost(variant: str, how: State, limit_ms: float) -> float:
    """What an hour of a variant costs on a device as it is, in points of accuracy."""
    over = how.tail_ms(variant) / limit_ms - 1.0
    points = 100.0 * DROP[variant]
    return points if over <= 0 else points + OVER_POINTS * (1.0 + over)


def regret(variant: str, how: State, limit_ms: float) -> float:
    """Above the best variant for the device as it is."""
    return cost(variant, how, limit_ms) - min(cost(name, how, limit_ms) for name in PACE)
