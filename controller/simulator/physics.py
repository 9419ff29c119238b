"""Modelled hardware: how long, how hot, how much energy. Round figures; no board's.

Latency is additive over a model's layers, each at the pace of its kernel (what a kernel table
holds), times what the chip's heat takes from its clock, times two spreads: one of the device,
which stays, and one of each run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

LAYERS = (2.0, 6.0, 12.0, 6.0, 0.5)
"""Millions of multiply-accumulates of the modelled network's layers."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A class of device."""

    facts: Mapping[str, str]  # of its hardware, so that its profile is matched
    us_per_mmac: Mapping[str, float]  # scheme to microseconds per million multiply-accumulates
    rise_c: float  # of the chip above its surroundings, at work
    throttles_c: float
    watts: float | None  # at work; None: no sensor
    battery_s: float | None = None  # it lasts so long; None: it has none
    mbit_s: float = 20.0


BOARDS: Mapping[str, Board] = {
    "generic-x86_64": Board(
        facts={"machine": "x86_64", "cpu": "modelled"}, us_per_mmac={"fp32": 40.0, "int8": 20.0},
        rise_c=35.0, throttles_c=95.0, watts=25.0, mbit_s=200.0,
    ),
    "raspberry-pi-5": Board(
        facts={"machine": "aarch64", "compatible": "raspberrypi,5-model-b brcm,bcm2712"},
        us_per_mmac={"fp32": 120.0, "int8": 50.0}, rise_c=42.0, throttles_c=80.0, watts=7.0,
    ),
    "jetson-orin-nano": Board(
        facts={"machine": "aarch64", "compatible": "nvidia,p3767-0003 nvidia,tegra234"},
        us_per_mmac={"fp32": 60.0, "int8": 25.0}, rise_c=30.0, throttles_c=85.0, watts=12.0,
    ),
    "rk3588": Board(
        facts={"machine": "aarch64", "compatible": "rockchip,rk3588"},
        us_per_mmac={"fp32": 110.0, "int8": 45.0}, rise_c=40.0, throttles_c=85.0, watts=None,
    ),
    "imx93": Board(
        facts={"machine": "aarch64", "compatible": "fsl,imx93"},
        us_per_mmac={"fp32": 700.0, "int8": 300.0}, rise_c=20.0, throttles_c=90.0, watts=None,
        mbit_s=5.0,
    ),
    "android-snapdragon-8": Board(
        facts={"machine": "aarch64", "android_soc_model": "SM8550", "platform": "android"},
        us_per_mmac={"fp32": 50.0, "int8": 18.0}, rise_c=25.0, throttles_c=45.0, watts=4.0,
        battery_s=30_000.0,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One device's own deviation from its class."""

    board: Board
    speed: float = 1.0  # times the latency of its class
    dust: float = 1.0  # times the class's rise in temperature

    @classmethod
    def drawn(cls, board: Board, chance: random.Random) -> Machine:
        """One of a class: 5 % spread in speed, 10 % in cooling."""
        return cls(
            board=board, speed=chance.lognormvariate(0.0, 0.05),
            dust=chance.lognormvariate(0.0, 0.1),
        )  # fmt: skip

    def chip_c(self, surroundings_c: float) -> float:
        """Temperature at work, degrees Celsius."""
        return surroundings_c + self.dust * self.board.rise_c

    def slowed(self, chip_c: float) -> float:
        """What heat takes: 3 % of the clock for each degree above the limit, a half at most."""
        over = max(0.0, chip_c - self.board.throttles_c)
        return 1.0 / max(0.5, 1.0 - 0.03 * over)

    def latency_ms(self, scheme: str, chip_c: float) -> float:
        """Median of an inference at this temperature, before the spread of a run."""
        pace = self.board.us_per_mmac[scheme]
        return sum(LAYERS) * pace / 1000.0 * self.speed * self.slowed(chip_c)

    def energy_mj(self, latency_ms: float) -> float | None:
        """Of one inference, or None without a sensor."""
        return None if self.board.watts is None else self.board.watts * latency_ms

    def fetch_s(self, size_bytes: int) -> float:
        """Seconds for so many bytes."""
        return size_bytes * 8 / (self.board.mbit_s * 1e6)


def surroundings_c(now_s: float, warmer_c: float) -> float:
    """Air temperature: 18 to 28 degrees over a day, and what a scenario adds."""
    return 23.0 + 5.0 * math.sin(2 * math.pi * now_s / DAY_S) + warmer_c
