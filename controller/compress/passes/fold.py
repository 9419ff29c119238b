"""Fold batch normalization into the convolution or linear layer before it.

    W' = W·γ/√(σ²+ε)    b' = (b − μ)·γ/√(σ²+ε) + β

After it no BatchNorm is left behind a convolution; the outputs stay the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.errors import FitError

if TYPE_CHECKING:
    from torch import nn

GOLDEN = 8
TOLERANCE = 1e-3  # relative to the largest output: float32 sums in another order


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldBatchNorm(Pass):
    """Fold every BatchNorm that follows a convolution or linear layer alone."""

    name: ClassVar[str] = "fold"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        del context
        module = copy.deepcopy(candidate.payload).eval()
        count = fold(module)
        return Applied(payload=module, numbers={"folded": count})

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        import torch

        inputs = torch.from_numpy(context.calibration[:GOLDEN].copy())
        with torch.inference_mode():
            expected = before.payload(inputs).numpy()
            found = after.payload(inputs).numpy()
        error = float(np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-12))
        if not error <= TOLERANCE:
            raise FitError(f"folding changed the outputs by {error:.2e} of their largest")
        return {"golden_error": error}


def fold(module: nn.Module) -> int:
    """Fold in place; the folded BatchNorm modules become identities. Returns how many.

    A module that `torch.fx` cannot trace is left as it is: the exporter folds what it can.
    """
    from torch import nn
    from torch.nn.utils import fusion

    count = 0
    for conv_name, norm_name in list(_pairs(module)):
        layer: Any = module.get_submodule(conv_name)
        norm: Any = module.get_submodule(norm_name)
        linear = isinstance(layer, nn.Linear)
        fuse: Any = fusion.fuse_linear_bn_eval if linear else fusion.fuse_conv_bn_eval
        _set(module, conv_name, fuse(layer, norm))
        _set(module, norm_name, nn.Identity())
        count += 1
    return count


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    from torch import fx, nn

    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    try:
        graph = fx.symbolic_trace(module).graph
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError):
        return
    modules = [n for n in graph.nodes if n.op == "call_module"]
    called = [str(n.target) for n in modules]
    for node in modules:
        norm = module.get_submodule(str(node.target))
        previous: Any = node.args[0] if node.args else None
        if not isinstance(norm, norms) or norm.running_mean is None or previous not in modules:
            continue
        alone = len(previous.users) == 1
        once = called.count(str(previous.target)) == 1 and called.count(str(node.target)) == 1
        if isinstance(module.get_submodule(str(previous.target)), layers) and alone and once:
            yield str(previous.target), str(node.target)


def _set(module: nn.Module, name: str, value: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, value)
