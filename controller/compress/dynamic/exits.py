"""An early exit in a torch network: a small head after an early block, on the frozen network.

After BranchyNet (Teerapittayanon et al. 2016), with two differences. Only the head is trained, so
that the answers of the whole network stay what they were. And confidence is the largest softmax
probability instead of the entropy: one operator less where microseconds count.

Torch is imported with this module: load it inside functions only.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from controller.errors import FitError

NEVER = 2.0  # a threshold that no probability reaches
HEAD, SELECT = "exit_head", "exit_select"


class Select(nn.Module):
    """The exit's logits where they are confident, the whole network's elsewhere; both [B, C]."""

    threshold: torch.Tensor

    def __init__(self, threshold: float = NEVER) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, early: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
        confidence = torch.softmax(early, dim=1).amax(dim=1, keepdim=True)
        return torch.where(confidence > self.threshold, early, final)


class Stem(nn.Module):
    """The frozen network up to the exit, and the head that is trained. Output [B, C] logits."""

    def __init__(self, stem: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = stem.eval(), head
        for parameter in stem.parameters():
            parameter.requires_grad = False

    def train(self, mode: bool = True) -> Stem:
        """The stem's statistics never move."""
        super().train(mode)
        self.stem.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.stem(x)
        made: torch.Tensor = self.head(features)
        return made


def head(channels: int, side: int, classes: int, hidden: int) -> nn.Module:
    """Two convolutions of stride 2 and 1, a mean over positions, a linear layer.

    Features of more than 16 pixels a side are pooled first, so that the head costs little.
    """
    pooled: list[nn.Module] = [nn.MaxPool2d(2)] if side > 16 else []
    return nn.Sequential(
        *pooled,
        nn.Conv2d(channels, hidden, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden, classes),
    )


def stem_of(module: nn.Module, name: str) -> nn.Module:
    """A copy of ``module`` that ends with the output of its part ``name``.

    Raises:
        FitError: it cannot be traced, or that part does not run exactly once.
    """
    traced = _traced(module)
    node = _node(traced, name)
    for output in [n for n in traced.graph.nodes if n.op == "output"]:
        output.args = (node,)
    return _cleaned(traced)


def with_exit(module: nn.Module, name: str, early: nn.Module) -> nn.Module:
    """A copy that computes both answers and selects; it never selects the exit's as yet.

    Raises:
        FitError: as `stem_of`, or the network has several outputs.
    """
    traced = _traced(module)
    node = _node(traced, name)
    traced.add_submodule(HEAD, copy.deepcopy(early))
    traced.add_submodule(SELECT, Select())
    output = next(n for n in traced.graph.nodes if n.op == "output")
    final: Any = output.args[0]
    if not isinstance(final, fx.Node):
        raise FitError("a network with several outputs gets no exit")
    with traced.graph.inserting_after(node):
        answer = traced.graph.call_module(HEAD, (node,))
    with traced.graph.inserting_before(output):
        output.args = (traced.graph.call_module(SELECT, (answer, final)),)
    return _cleaned(traced)


def _traced(module: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(copy.deepcopy(module).eval())
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FitError(
            f"the network cannot be traced for an exit ({error}); control flow that depends on "
            "values stands in the way"
        ) from error


def _node(traced: fx.GraphModule, name: str) -> fx.Node:
    found = [n for n in traced.graph.nodes if n.op == "call_module" and n.target == name]
    if len(found) != 1:
        raise FitError(f"'{name}' runs {len(found)} times; an exit needs a part that runs once")
    node: fx.Node = found[0]
    return node


def _cleaned(traced: fx.GraphModule) -> nn.Module:
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()
