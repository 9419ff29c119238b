"""The kernel table: how long a device takes for the building blocks of a network.

The two-second probe fills it with a few convolutions in every scheme; predictions interpolate
between them. Which int8 scheme is fast is a fact of the device and its runtime, never of a
table in our sources.
"""

from __future__ import annotations

from dataclasses import dataclass

from fitment.core.measurement import Verdict

SCHEMES = ("fp32", "u8s8", "s8s8", "u8u8", "dynamic")
"""Schemes a probe tells apart: activations then weights (``u8s8``: uint8 and int8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTiming:
    """One tiny graph timed on one device."""

    kernel: str  # signature, e.g. "conv3x3:c32:k32:h28" (input channels, outputs, size)
    scheme: str  # one of SCHEMES
    macs: int  # multiply-accumulates of one run
    p50_us: float
    count: int
    integer_coverage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTable:
    """All timings of one runtime on one device in one condition."""

    runtime: str  # "onnx", "litert"
    runtime_version: str
    hardware: str  # hardware hash
    stack: str  # stack hash
    threads: int
    verdict: Verdict
    emulated: bool
    timings: tuple[KernelTiming, ...] = ()

    def schemes_by_speed(self) -> tuple[tuple[str, float], ...]:
        """Schemes with their geometric mean time relative to fp32, fastest first.

        Only kernels timed both in fp32 and in the scheme count; a table without fp32 is empty.
        """
        fp32 = {t.kernel: t.p50_us for t in self.timings if t.scheme == "fp32"}
        ratios: dict[str, list[float]] = {}
        for timing in self.timings:
            if timing.kernel in fp32 and fp32[timing.kernel] > 0 and timing.p50_us > 0:
                ratios.setdefault(timing.scheme, []).append(timing.p50_us / fp32[timing.kernel])
        means = {scheme: _geometric_mean(values) for scheme, values in ratios.items()}
        return tuple(sorted(means.items(), key=lambda item: item[1]))


def _geometric_mean(values: list[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return float(product ** (1.0 / len(values)))
