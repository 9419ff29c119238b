"""Entry: a float ONNX model in, the same with zeros among its weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from controller.compress.graph.model import Inputs, copied
from controller.compress.prune.sparse import floor, lamp, magnitude, selection, sparsegpt, wanda
from controller.compress.prune.sparse.layers import Double, Found, Layer, energies, find, grams
from controller.compress.prune.sparse.refit import refit
from controller.compress.prune.sparse.selection import Mask, Pattern
from controller.errors import FitError

METHODS = ("magnitude", "lamp", "wanda", "sparsegpt")
SCOPES = ("layer", "global")
_SCORES = {"magnitude": magnitude.scores, "lamp": lamp.scores, "wanda": wanda.scores}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to prune. The pass `Sparsify` says what each field does."""

    sparsity: float = 0.5
    method: str = "sparsegpt"
    scope: str = "layer"
    pattern: str = ""
    floor: float = 0.1
    refit: bool = False
    ends: bool = False
    depthwise: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.scope not in SCOPES:
            raise FitError(
                f"a method of {', '.join(METHODS)} and a scope of {', '.join(SCOPES)} are needed, "
                f"not '{self.method}' and '{self.scope}'"
            )
        if not 0 < self.sparsity < 1 or not 0 <= self.floor < 1:
            raise FitError(
                "a sparsity between 0 and 1 and a floor of at least 0 and below 1 are needed, not "
                f"{self.sparsity} and {self.floor}"
            )
        if Pattern.parse(self.pattern) is not None and self.scope == "global":
            raise FitError("an N:M pattern takes the same share everywhere: its scope is 'layer'")

    @property
    def needs_inputs(self) -> bool:
        """Whether real inputs are looked at."""
        return self.refit or self.method in ("wanda", "sparsegpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """The model, the share of zeros in each pruned layer, and what was left alone or trapped."""

    model: onnx.ModelProto
    zeros: Mapping[str, float]
    trapped: tuple[floor.Trapped, ...]
    left_alone: tuple[str, ...]


def sparsify(model: onnx.ModelProto, inputs: Inputs | None, plan: Plan) -> Sparse:
    """A copy of ``model`` with weights set to zero as the plan says.

    Args:
        model: float, with weights as initializers or Constant nodes.
        inputs: real inputs, float32 [N, …], no labels; None where the plan needs none.
        plan: how to prune.

    Raises:
        FitError: nothing can be pruned, or the plan needs inputs and there are none.
    """
    result = copied(model)
    found = find(result)
    pattern = Pattern.parse(plan.pattern)
    targets, notes = _targets(found, plan, pattern)
    if not targets:
        raise FitError(f"no weights can be pruned: {'; '.join(notes) or 'there are none'}")
    if plan.needs_inputs and inputs is None:
        raise FitError(f"pruning by {plan.method} needs inputs")
    seen = {}
    if plan.method == "wanda" and inputs is not None:
        seen = grams(result, targets, inputs)
    stays, trapped = _masks(targets, seen, plan, pattern)
    for layer in targets:
        fresh = None
        if inputs is not None and (plan.refit or plan.method == "sparsegpt"):
            fresh = grams(result, [layer], inputs)[layer.name]  # as the layers before now give it
        _rewrite(layer, stays[layer.name], fresh, plan, pattern)
    onnx.checker.check_model(result)
    return Sparse(
        model=result,
        zeros={layer.name: float((layer.matrix() == 0).mean()) for layer in targets},
        trapped=trapped,
        left_alone=(*found.left_alone, *notes),
    )


def _targets(
    found: Found, plan: Plan, pattern: Pattern | None
) -> tuple[tuple[Layer, ...], list[str]]:
    layers = found.layers if plan.ends else found.layers[1:-1]
    targets, notes = [], []
    for layer in layers:
        columns = layer.matrix().shape[1]
        if layer.alone and not plan.depthwise:
            notes.append(
                f"left alone: '{layer.name}': depthwise, each output has {columns} weights of its "
                "own and no other channel to make up for them"
            )
        elif pattern is not None and pattern.order(columns, layer.window) is None:
            channels = columns // layer.window
            notes.append(
                f"left alone: '{layer.name}': its {channels} input channels are no multiple of "
                f"{pattern.of}"
            )
        else:
            targets.append(layer)
    return tuple(targets), notes


def _masks(
    targets: Sequence[Layer],
    seen: Mapping[str, Sequence[Double]],
    plan: Plan,
    pattern: Pattern | None,
) -> tuple[dict[str, Mask], tuple[floor.Trapped, ...]]:
    """Which weights stay; for SparseGPT only their share counts, it chooses its own."""
    score = _SCORES[plan.method if plan.method != "sparsegpt" else "lamp"]
    values = {
        layer.name: score(
            layer.matrix(), energies(layer, seen[layer.name]) if layer.name in seen else None
        )
        for layer in targets
    }
    if plan.scope == "global":
        chosen = floor.across_layers(values, plan.sparsity, plan.floor)
        return dict(chosen.stays), chosen.trapped
    masks = {}
    for layer in targets:
        scores = values[layer.name]
        if pattern is not None:
            masks[layer.name] = _patterned(scores, layer, pattern)
        elif plan.method == "wanda":
            masks[layer.name] = ~selection.by_row(scores, plan.sparsity)
        else:
            masks[layer.name] = ~selection.cheapest(scores, plan.sparsity)
    return masks, ()


def _patterned(scores: Double, layer: Layer, pattern: Pattern) -> Mask:
    order = pattern.order(scores.shape[1], layer.window)
    assert order is not None  # `_targets` asked
    stays = np.empty(scores.shape, bool)
    stays[:, order] = selection.in_pattern(scores[:, order], pattern)
    return stays


def _rewrite(
    layer: Layer,
    stays: Mask,
    fresh: Sequence[Double] | None,
    plan: Plan,
    pattern: Pattern | None,
) -> None:
    """Write one layer's weights; ``fresh`` are the Gram matrices of its groups."""
    matrix = layer.matrix()
    if fresh is None:
        layer.write(matrix * stays)
        return
    share = len(matrix) // layer.groups
    made = np.empty_like(matrix)
    for group, gram in enumerate(fresh):
        part = slice(group * share, (group + 1) * share)
        mask, rows = stays[part], matrix[part]
        if plan.method == "sparsegpt":
            gone = 1.0 - float(stays.mean())
            made[part], mask = _compensated(rows, gram, gone, layer, pattern)
        if plan.refit:
            made[part] = refit(rows, gram, mask)
    layer.write(made)


def _compensated(
    rows: Double, gram: Double, gone: float, layer: Layer, pattern: Pattern | None
) -> tuple[Double, Mask]:
    columns = rows.shape[1]
    order = np.arange(columns)
    if pattern is not None:
        found = pattern.order(columns, layer.window)
        assert found is not None  # `_targets` asked
        order = found
    made, stays = np.empty_like(rows), np.empty(rows.shape, bool)
    made[:, order], stays[:, order] = sparsegpt.prune(
        rows[:, order], gram[np.ix_(order, order)], gone, pattern=pattern
    )
    return made, stays
