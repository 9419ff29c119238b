"""Latency prediction: the sum of a network's layers, read off the device's kernel table.

nn-Meter's idea (Zhang et al., MobiSys 2021): time kernels on the device, predict a network as
their sum. Time per multiply-accumulate is interpolated over the logarithm of the work, between
kernels of the same kind and scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.compress.graph.model import LayerShape
from controller.errors import FitError
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import Cost, CostKind


def predict(layers: Sequence[LayerShape], table: KernelTable, scheme: str) -> Cost:
    """Milliseconds of one inference.

    The kind is *interpolated* when every layer's kind of kernel was timed in the scheme on a real
    device, and *estimated* when the table is of an emulated one or a kind had to be borrowed.

    Raises:
        FitError: the table has no timing in this scheme.
    """
    timings = [t for t in table.timings if t.scheme == scheme and t.p50_us > 0]
    if not timings:
        raise FitError(f"the kernel table of {table.runtime} has no timing in scheme '{scheme}'")
    total_us, borrowed = 0.0, False
    for layer in layers:
        same = [t for t in timings if t.kernel.startswith(_prefix(layer))]
        borrowed |= not same
        total_us += _interpolated(same or timings, layer.macs)
    estimated = borrowed or table.emulated
    kind = CostKind.ESTIMATED if estimated else CostKind.INTERPOLATED
    return Cost(value=total_us / 1000.0, unit="ms", kind=kind, verdict=table.verdict)


def _prefix(layer: LayerShape) -> str:
    if layer.kind == "gemm":
        return "gemm:"
    height, width = layer.kernel
    return f"{layer.kind}{height}x{width}:"


def _interpolated(timings: Sequence[KernelTiming], macs: int) -> float:
    """Microseconds for ``macs``: time grows as a power of work between two timed kernels."""
    known = sorted({t.macs: t.p50_us for t in timings}.items())
    if len(known) == 1 or macs <= known[0][0]:
        work, time_us = known[0]
        return time_us * macs / work
    below = max((k for k in known if k[0] <= macs), default=known[0])
    above = min((k for k in known if k[0] > macs), default=None)
    if above is None:
        work, time_us = known[-1]
        return time_us * macs / work
    share = (math.log(macs) - math.log(below[0])) / (math.log(above[0]) - math.log(below[0]))
    return math.exp(math.log(below[1]) * (1 - share) + math.log(above[1]) * share)
