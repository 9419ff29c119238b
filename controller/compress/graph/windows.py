"""A layer's input as rows: what each output's weights are multiplied with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from controller.compress.graph.model import Array, attributes


def unfold(
    node: onnx.NodeProto,
    values: Array,
    weight_shape: tuple[int, ...],
    most: int,
    chance: np.random.Generator,
) -> list[Array]:
    """Rows [n, K] of a layer's input, in the order of its weights, one array for each group.

    Args:
        node: Conv, or Gemm or MatMul whose second input are the weights.
        values: its first input, [N, …].
        weight_shape: of its weights.
        most: places of each input that are drawn; fewer where there are not so many.
        chance: draws them.
    """
    if node.op_type != "Conv":
        rows = values.reshape(len(values), -1, values.shape[-1])
        chosen = _draw(rows.shape[1], most, chance)
        return [rows[:, chosen].reshape(-1, values.shape[-1])]
    kernel = weight_shape[2:]
    rank = len(kernel)
    options = attributes(node)
    strides = options.get("strides") or [1] * rank
    gaps = options.get("dilations") or [1] * rank
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True))
    pads = _pads(options, values.shape[2:], spans, strides)
    padded = np.pad(values, [(0, 0), (0, 0), *pads])
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    steps = [slice(None, None, s) for s in (*strides, *gaps)]
    where: tuple[Any, ...] = (slice(None), slice(None), *steps)
    windows = windows[where]
    places = windows.shape[2 : 2 + rank]
    index = np.unravel_index(_draw(math.prod(places), most, chance), places)
    where = (slice(None), slice(None), *index)
    picked = np.moveaxis(windows[where], 2, 1).reshape(-1, values.shape[1], *kernel)
    share = weight_shape[1]
    groups = values.shape[1] // share
    return [picked[:, g * share : (g + 1) * share].reshape(len(picked), -1) for g in range(groups)]


def _draw(total: int, most: int, chance: np.random.Generator) -> Array:
    return chance.choice(total, size=min(most, total), replace=False)


def _pads(
    options: dict[str, Any],
    sizes: tuple[int, ...],
    spans: tuple[int, ...],
    strides: list[int],
) -> list[tuple[int, int]]:
    """What is put before and behind each axis; ``auto_pad`` as the ONNX operator defines it."""
    auto = options.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = []
        for size, span, step in zip(sizes, spans, strides, strict=True):
            total = max((math.ceil(size / step) - 1) * step + span - size, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if auto == b"SAME_UPPER" else (more, less))
        return pads
    given = options.get("pads") or [0] * (2 * len(spans))
    return [(given[i], given[i + len(spans)]) for i in range(len(spans))]
