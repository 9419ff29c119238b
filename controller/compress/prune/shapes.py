"""Shapes of a torch module's heavy layers, as they are and as they would be with other widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from controller.compress.graph.model import LayerShape
from controller.compress.passes.channels import Space

if TYPE_CHECKING:
    import torch
    from torch import nn


def shapes(module: nn.Module, example: torch.Tensor) -> tuple[LayerShape, ...]:
    """All convolutions and linear layers at batch 1, in the order in which they run."""
    import torch
    from torch import nn

    found: list[LayerShape] = []
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):

            def note(layer: Any, inputs: Any, output: torch.Tensor, name: str = name) -> None:
                found.append(_shape(name, layer, inputs[0], output))

            handles.append(layer.register_forward_hook(note))
    try:
        with torch.inference_mode():
            module(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found)


def resized(
    layers: Sequence[LayerShape], spaces: Sequence[Space], widths: Mapping[int, int]
) -> tuple[LayerShape, ...]:
    """The layers when the spaces (by index) have other widths; nothing is run."""
    inputs = {layer.name: layer.cin for layer in layers}
    outputs = {layer.name: layer.cout for layer in layers}
    for index, width in widths.items():
        space = spaces[index]
        gone = space.size - width
        for name in space.producers:
            outputs[name] -= gone
        for slot in space.consumers:
            inputs[slot.name] -= gone * slot.factor
        for slot in space.depthwise:
            inputs[slot.name] -= gone
            outputs[slot.name] -= gone
    return tuple(_resized(layer, inputs[layer.name], outputs[layer.name]) for layer in layers)


def _resized(layer: LayerShape, cin: int, cout: int) -> LayerShape:
    depth = layer.cin if layer.kind != "dwconv" else 1
    new_depth = cin if layer.kind != "dwconv" else 1
    each = layer.macs // (depth * layer.cout)
    return replace(layer, cin=cin, cout=cout, macs=each * new_depth * cout)


def _shape(name: str, layer: Any, given: torch.Tensor, made: torch.Tensor) -> LayerShape:
    if not hasattr(layer, "kernel_size"):
        return LayerShape(
            kind="gemm", kernel=(1, 1), stride=1, cin=layer.in_features, cout=layer.out_features,
            height=1, width=1, macs=made[0].numel() * layer.in_features, name=name,
        )  # fmt: skip
    window = tuple(layer.kernel_size)
    depthwise = layer.groups > 1 and layer.weight.shape[1] == 1
    return LayerShape(
        kind="dwconv" if depthwise else "conv",
        kernel=(window[0], window[1]) if len(window) == 2 else (1, window[0]),
        stride=int(layer.stride[0]),
        cin=layer.in_channels,
        cout=layer.out_channels,
        height=given.shape[2] if given.ndim == 4 else 1,
        width=given.shape[-1],
        macs=made[0].numel() * layer.weight[0].numel(),
        name=name,
    )
