"""Latency of a network from a device's kernel table: the sum of its kernels.

nn-Meter's method (Zhang et al., MobiSys 2021): a network's time is the sum of its kernels' times,
each from measurements of that kind of kernel. Here there are few kernels, so a layer's time is

    macs * rate(kind, macs)

where the rate, microseconds for one multiply-accumulate, is interpolated between the table's
kernels of the same kind, window and scheme (logarithm of the rate over the logarithm of the size)
and held constant beyond the smallest and largest. Each kernel was timed in a run of its own, so
the cost of a run without arithmetic is taken off first: the quickest graph that is small enough to
be nearly nothing else stands for it. A network pays it once, and a share of it for each layer.
Pooling, additions and the like are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from controller.compress.graph.model import LayerShape
from controller.compress.kernels import Kernel
from controller.errors import FitError
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import Cost, CostKind, Verdict

_NEARLY_NOTHING_MACS = 20_000  # about a microsecond of arithmetic on the slowest boards
_OPERATOR_SHARE = 0.25  # of a run's fixed cost that each layer adds
_RATE_FLOOR = 1e-3  # of the largest rate: a graph of fixed cost alone has none of its own
_STAND_INS = {
    # kinds to take instead, the most alike first
    "conv": ("conv", "gemm", "dwconv"),
    "dwconv": ("dwconv", "conv", "gemm"),
    "gemm": ("gemm", "conv", "dwconv"),
}


def predict(layers: Sequence[LayerShape], table: KernelTable, scheme: str) -> Cost:
    """Predicted latency at batch 1, in milliseconds.

    Interpolated when the table was measured undisturbed on the device itself and holds every kind
    and window that the network has; estimated when a host stood in for the board, the measurement
    was disturbed, or another kind of kernel had to stand in.

    Raises:
        FitError: the table holds nothing in that scheme, or there are no layers.
    """
    fixed_ms, each, alike = _parts(layers, table, scheme)
    measured = alike and not table.emulated and table.verdict is Verdict.VALID
    return Cost(
        value=fixed_ms + sum(each),
        unit="ms",
        kind=CostKind.INTERPOLATED if measured else CostKind.ESTIMATED,
        verdict=table.verdict,
    )


RUN = "run"
"""The part of a prediction that a run costs before any layer."""


def by_kind(layers: Sequence[LayerShape], table: KernelTable, scheme: str) -> dict[str, float]:
    """The parts of `predict`, in milliseconds: `RUN`, and the layers of each kind together.

    Raises:
        FitError: the table holds nothing in that scheme, or there are no layers.
    """
    fixed_ms, each, _ = _parts(layers, table, scheme)
    found = {RUN: fixed_ms}
    for layer, ms in zip(layers, each, strict=True):
        found[layer.kind] = found.get(layer.kind, 0.0) + ms
    return found


def by_layer(
    layers: Sequence[LayerShape], table: KernelTable, scheme: str
) -> tuple[float, tuple[float, ...]]:
    """What a run costs before any layer, and what each layer adds, in milliseconds.

    Raises:
        FitError: the table holds nothing in that scheme, or there are no layers.
    """
    fixed_ms, each, _ = _parts(layers, table, scheme)
    return fixed_ms, each


def _parts(
    layers: Sequence[LayerShape], table: KernelTable, scheme: str
) -> tuple[float, tuple[float, ...], bool]:
    """Fixed and added milliseconds, and whether every layer found a kernel of its very kind."""
    timings = [t for t in table.timings if t.scheme == scheme and t.macs > 0 and t.p50_us > 0]
    if not timings:
        raise FitError(
            f"the kernel table of {table.runtime} has no timing in scheme '{scheme}': "
            "probe the device"
        )
    if not layers:
        raise FitError("the model has no heavy layers to predict")
    small = [t.p50_us for t in timings if t.macs <= _NEARLY_NOTHING_MACS]
    fixed_us = min(small, default=0.0)
    found = [(_alike(timings, layer), layer.macs) for layer in layers]
    each = [
        _time_us(chosen, macs, fixed_us) + _OPERATOR_SHARE * fixed_us for (chosen, _), macs in found
    ]
    return fixed_us / 1e3, tuple(us / 1e3 for us in each), all(same for (_, same), _ in found)


def _alike(timings: Iterable[KernelTiming], layer: LayerShape) -> tuple[list[KernelTiming], bool]:
    """The kernels most like a layer, and whether they are of its very kind and window."""
    parsed = [(Kernel.parse(timing.kernel), timing) for timing in timings]
    square = layer.kernel[0] == layer.kernel[1]
    same = [t for k, t in parsed if square and (k.kind, k.size) == (layer.kind, layer.kernel[0])]
    if same:
        return same, True
    for kind in _STAND_INS.get(layer.kind, ()):
        found = [t for k, t in parsed if k.kind == kind]
        if found:
            return found, False
    return [timing for _, timing in parsed], False


def _time_us(timings: Sequence[KernelTiming], macs: int, fixed_us: float) -> float:
    """Microseconds of ``macs`` multiply-accumulates, fixed cost left out."""
    ordered = sorted(timings, key=lambda timing: timing.macs)
    rates = [max(t.p50_us - fixed_us, 0.0) / t.macs for t in ordered]
    if not any(rates):
        # Only graphs of fixed cost are known: what is beyond them costs as much, pessimistically.
        largest = ordered[-1]
        return max(macs - largest.macs, 0) * largest.p50_us / largest.macs
    floor = _RATE_FLOOR * max(rates)
    sizes = [math.log(timing.macs) for timing in ordered]
    rate = np.interp(math.log(max(macs, 1)), sizes, np.log(np.maximum(rates, floor)))
    return macs * math.exp(float(rate))
