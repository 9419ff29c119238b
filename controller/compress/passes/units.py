"""Chains of a convolution and what follows it alone: what shortening may take out or merge.

A *unit* is a convolution with the normalization, activation and pooling that nobody else reads,
up to the convolution that receives its result. Anything the walk does not know ends the chain, so
that an unknown operation costs compression, never correctness.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.compress.passes.channels import channelwise_modules, is_channelwise
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import fx, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One chain, by the names of its modules; empty where there is none."""

    conv: str
    norm: str = ""
    activation: str = ""
    pool: str = ""  # 2x2, each window once
    receiver: str = ""  # the convolution that alone reads the chain


def units(module: nn.Module) -> list[Unit]:
    """All units, in the order in which they run.

    Raises:
        FitError: the network cannot be traced.
    """
    from torch import fx, nn

    try:
        graph = fx.symbolic_trace(module).graph
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FitError(f"the network cannot be traced for shortening ({error})") from error
    calls = [str(n.target) for n in graph.nodes if n.op == "call_module"]
    found = []
    for node in graph.nodes:
        if node.op == "call_module" and _plain(module.get_submodule(str(node.target)), nn):
            unit = _unit(module, node)
            names = (unit.conv, unit.norm, unit.activation, unit.pool, unit.receiver)
            if all(calls.count(name) == 1 for name in names if name):
                found.append(unit)
    return found


def activations(module: nn.Module, example: torch.Tensor) -> int:
    """Elements that convolutions and linear layers write for one input of ``example`` [N, ...]."""
    import torch
    from torch import nn

    written = 0

    def count(_layer: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal written
        written += output[0].numel()

    layers = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            module(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return written


def replaced(module: nn.Module, changes: dict[str, nn.Module]) -> nn.Module:
    """A copy of the network in which some modules are others."""
    made = copy.deepcopy(module)
    for name, other in changes.items():
        parent, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(parent), leaf, other)
    return made


def _plain(layer: nn.Module, nn: Any) -> bool:
    """A dense convolution that keeps height and width: no stride, no dilation, zeros around."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    sizes = tuple(layer.kernel_size)
    centred = all(k % 2 for k in sizes) and tuple(layer.padding) == tuple(k // 2 for k in sizes)
    dense = layer.groups == 1 and layer.padding_mode == "zeros"
    return centred and dense and tuple(layer.stride) == tuple(layer.dilation) == (1, 1)


def _unit(module: nn.Module, node: fx.Node) -> Unit:
    from torch import nn

    parts: dict[str, str] = {"conv": str(node.target)}
    for name, layer in _followers(module, node):
        if isinstance(layer, nn.BatchNorm2d) and len(parts) == 1:
            parts["norm"] = name
        elif _halves(layer) and "pool" not in parts:
            parts["pool"] = name
        elif isinstance(layer, nn.Conv2d):
            if layer.groups == 1:
                parts["receiver"] = name
            break
        elif not parts.keys() & {"activation", "pool"} and isinstance(layer, channelwise_modules()):
            if not isinstance(layer, nn.Identity):
                parts["activation"] = name
        elif not isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
            break
    return Unit(**parts)


def _followers(module: nn.Module, node: fx.Node) -> Iterator[tuple[str, nn.Module]]:
    """The modules that one after the other read the result of ``node``, while each is alone.

    Functions that treat each channel by itself stand between them and stay where they are.
    """
    while len(node.users) == 1:
        node = next(iter(node.users))
        if len(node.all_input_nodes) != 1:
            return
        if node.op == "call_module":
            yield str(node.target), module.get_submodule(str(node.target))
        elif not is_channelwise(node):
            return


def _halves(layer: nn.Module) -> bool:
    from torch import nn

    if not isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return False
    pair = (2, 2)
    whole = all(
        value in (2, pair) for value in (layer.kernel_size, layer.stride or layer.kernel_size)
    )
    return whole and layer.padding in (0, (0, 0)) and getattr(layer, "dilation", 1) in (1, (1, 1))
