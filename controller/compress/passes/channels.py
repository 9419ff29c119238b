"""Which layers share which channels: the dependency tracer of structured pruning.

A *space* is a set of channels that must be cut together. The tracer walks the `torch.fx` graph
with the spaces of every value: a convolution or linear layer opens a new one, normalizations,
activations and pooling keep it, an addition joins two, a concatenation puts several in a row.
Whatever the tracer does not know freezes the spaces it touches, so that an unknown operation
costs compression, never correctness.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import fx, nn


OUTPUT = "the model's output"  # why its channels stay


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a module holds a space's channels: ``factor`` features each, from ``offset`` on."""

    name: str
    factor: int = 1  # more than one once an image was flattened
    offset: int = 0  # behind what else was concatenated


@dataclass(slots=True, kw_only=True)
class Space:
    """Channels that live and die together, and the modules that hold a slice of them."""

    size: int
    producers: list[str] = field(default_factory=list)  # their output channels
    norms: list[Slot] = field(default_factory=list)
    depthwise: list[Slot] = field(default_factory=list)  # one filter for each channel
    consumers: list[Slot] = field(default_factory=list)  # their input channels or features
    frozen: str = ""  # why it may not be cut

    @property
    def slots(self) -> list[Slot]:
        """Every place that holds a slice of the channels, beside the layers that make them."""
        return [*self.norms, *self.depthwise, *self.consumers]


@dataclass(frozen=True, slots=True)
class _Part:
    space: int
    factor: int = 1


_Value: TypeAlias = tuple[_Part, ...]  # spaces in a row along the channel axis


class ChannelTracer:
    """Traces one module. ``spaces()`` gives what may be cut and what not.

    With ``tables`` an embedding opens a space, too: the width of its words, which lies on the last
    axis and becomes channels by the transposition behind it. Without, it stays as it is.
    """

    def __init__(self, module: nn.Module, example: torch.Tensor, *, tables: bool = False) -> None:
        self._module = module
        self._tables = tables
        self._spaces: list[Space] = []
        self._parent: list[int] = []
        self._values: dict[str, _Value | None] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._graph = self._trace(example)
        calls = [str(n.target) for n in self._graph.nodes if n.op == "call_module"]
        self._shared = {name for name in calls if calls.count(name) > 1}

    def spaces(self) -> list[Space]:
        """All spaces, joined ones once."""
        for node in self._graph.nodes:
            self._values[node.name] = self._visit(node)
        roots = sorted({self._find(i) for i in range(len(self._spaces))})
        return [self._spaces[i] for i in roots]

    def _trace(self, example: torch.Tensor) -> fx.Graph:
        from torch import fx
        from torch.fx.passes.shape_prop import ShapeProp

        try:
            traced = fx.symbolic_trace(self._module)
        except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise FitError(
                f"the network cannot be traced for pruning ({error}); control flow that depends "
                "on values stands in the way"
            ) from error
        ShapeProp(traced).propagate(example)
        for node in traced.graph.nodes:
            meta = node.meta.get("tensor_meta")
            if meta is not None and hasattr(meta, "shape"):
                self._shapes[node.name] = tuple(meta.shape)
        return traced.graph

    # Union-find over spaces.

    def _new(self, size: int, frozen: str = "") -> _Value:
        self._spaces.append(Space(size=size, frozen=frozen))
        self._parent.append(len(self._parent))
        return (_Part(len(self._spaces) - 1),)

    def _find(self, index: int) -> int:
        while self._parent[index] != index:
            index = self._parent[index]
        return index

    def _space(self, part: _Part) -> Space:
        return self._spaces[self._find(part.space)]

    def _slots(self, name: str, value: _Value) -> Iterator[tuple[Space, Slot]]:
        """The spaces of a value, and where a module that reads it holds each."""
        offset = 0
        for part in value:
            space = self._space(part)
            yield space, Slot(name, part.factor, offset)
            offset += space.size * part.factor

    def _join(self, one: _Value, other: _Value) -> _Value:
        forms = [[(self._space(p).size, p.factor) for p in value] for value in (one, other)]
        if forms[0] != forms[1]:
            self._freeze(one, "added to a tensor with other channels")
            self._freeze(other, "added to a tensor with other channels")
            return one
        for left, right in zip(one, other, strict=True):
            self._unite(self._find(left.space), self._find(right.space))
        return one

    def _unite(self, a: int, b: int) -> None:
        if a == b:
            return
        kept, gone = self._spaces[a], self._spaces[b]
        kept.producers.extend(gone.producers)
        for part in ("norms", "depthwise", "consumers"):
            getattr(kept, part).extend(getattr(gone, part))
        kept.frozen = kept.frozen or gone.frozen
        self._parent[b] = a

    def _freeze(self, value: _Value | None, reason: str) -> None:
        for part in value or ():
            space = self._space(part)
            space.frozen = space.frozen or reason

    # One visit for each kind of node.

    def _visit(self, node: fx.Node) -> _Value | None:
        if node.op == "placeholder":
            shape = self._shapes.get(node.name, (0, 0))
            return self._new(shape[1] if len(shape) > 1 else 0, frozen="the model's input")
        if node.op == "output":
            for value in self._inputs(node):
                self._freeze(value, OUTPUT)
            return None
        if node.op == "get_attr":
            return None
        if node.op == "call_module":
            return self._visit_module(node, self._module.get_submodule(str(node.target)))
        return self._visit_call(node)

    def _inputs(self, node: fx.Node) -> list[_Value]:
        found = [self._values.get(n.name) for n in node.all_input_nodes]
        return [value for value in found if value is not None]

    def _visit_module(self, node: fx.Node, module: nn.Module) -> _Value | None:
        from torch import nn

        name, inputs = str(node.target), self._inputs(node)
        value = inputs[0] if len(inputs) == 1 else None
        holds_nothing = isinstance(module, (nn.Flatten, *channelwise_modules()))
        if value is None or (name in self._shared and not holds_nothing):
            return self._unknown(node, f"'{name}' is used more than once or has several inputs")
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            return self._visit_conv(name, module, value)
        if isinstance(module, nn.Linear):
            return self._visit_linear(node, name, module, value)
        plain = all(part.factor == 1 for part in value)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and plain:
            for space, slot in self._slots(name, value):
                space.norms.append(slot)
            return value
        if isinstance(module, nn.Embedding) and self._tables and _only_swapped(node):
            made = self._new(module.embedding_dim)
            self._space(made[0]).producers.append(name)
            return made
        if holds_nothing:
            return self._flatten(node, value) if isinstance(module, nn.Flatten) else value
        return self._unknown(node, f"'{name}' is a {type(module).__name__}")

    def _visit_conv(self, name: str, module: nn.Conv1d | nn.Conv2d, value: _Value) -> _Value:
        if module.groups == 1:
            return self._produced(name, module.out_channels, value)
        if module.groups == module.in_channels == module.out_channels:
            for space, slot in self._slots(name, value):
                space.depthwise.append(slot)
            return value
        self._freeze(value, f"'{name}' is a grouped convolution")
        return self._new(module.out_channels, frozen=f"'{name}' is a grouped convolution")

    def _visit_linear(
        self, node: fx.Node, name: str, module: nn.Linear, value: _Value
    ) -> _Value | None:
        if len(self._shapes.get(node.name, ())) != 2:
            return self._unknown(node, f"'{name}' acts on more than two axes")
        return self._produced(name, module.out_features, value)

    def _produced(self, name: str, size: int, value: _Value) -> _Value:
        """What a layer gives that reads ``value`` and opens a space of ``size`` channels."""
        for space, slot in self._slots(name, value):
            space.consumers.append(slot)
        made = self._new(size)
        self._space(made[0]).producers.append(name)
        return made

    def _visit_call(self, node: fx.Node) -> _Value | None:
        kind, inputs = _call_name(node), self._inputs(node)
        if kind in _SIZES:
            return None
        if kind in _JOINS and len(inputs) == 2 and len(node.args) >= 2:
            return self._join(inputs[0], inputs[1])
        if kind in _CONCATENATES:
            return self._concatenated(node)
        if len(inputs) != 1:
            return self._unknown(node, f"'{kind}' is not known to the tracer")
        value = inputs[0]
        if kind in _SWAPS and self._swapped_table(node):
            return value
        if kind in _JOINS | _CHANNELWISE or (kind in _OVER_SPACE and self._spatial_mean(node)):
            return value
        if kind in {"flatten", "view", "reshape"}:
            return self._flatten(node, value)
        return self._unknown(node, f"'{kind}' is not known to the tracer")

    def _concatenated(self, node: fx.Node) -> _Value | None:
        listed = node.args[0] if node.args else node.kwargs.get("tensors")
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        rank = len(self._shapes.get(node.name, ()))
        parts: Any = listed if isinstance(listed, list | tuple) else ()
        values = [self._values.get(getattr(part, "name", "")) for part in parts]
        known = [value for value in values if value is not None]
        along_channels = isinstance(axis, int) and rank > 1 and axis % rank == 1
        if not along_channels or not parts or len(known) != len(parts):
            return self._unknown(node, "it is concatenated with something else, or not by channel")
        return tuple(part for value in known for part in value)

    def _spatial_mean(self, node: fx.Node) -> bool:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        rank = len(self._shapes.get(node.all_input_nodes[0].name, ()))
        listed = axes if isinstance(axes, list | tuple) else [axes]
        return rank > 2 and all(isinstance(a, int) and a % rank >= 2 for a in listed)

    def _swapped_table(self, node: fx.Node) -> bool:
        """Whether a node brings an embedding's width to where channels lie."""
        from torch import nn

        source = node.all_input_nodes[0]
        table = source.op == "call_module" and self._module.get_submodule(str(source.target))
        return self._tables and isinstance(table, nn.Embedding) and _only_swapped(source)

    def _flatten(self, node: fx.Node, value: _Value) -> _Value | None:
        before = self._shapes.get(node.all_input_nodes[0].name, ())
        after = self._shapes.get(node.name, ())
        whole = len(before) >= 2 and after == (before[0], math.prod(before[1:]))
        if not whole:
            return self._unknown(node, "it is reshaped")
        size = math.prod(before[2:])
        return tuple(_Part(part.space, part.factor * size) for part in value)

    def _unknown(self, node: fx.Node, reason: str) -> _Value | None:
        for value in self._inputs(node):
            self._freeze(value, reason)
        shape = self._shapes.get(node.name, ())
        return self._new(shape[1], frozen=reason) if len(shape) > 1 else None


_SWAPS = {"transpose", "permute", "swapaxes"}
_OVER_SPACE = {"mean", "amax"}
_SIZES = {"size", "getattr", "getitem", "dim"}
_CONCATENATES = {"cat", "concat", "concatenate"}
_JOINS = {"add", "iadd", "sub", "mul", "add_", "mul_"}
_CHANNELWISE = {
    "relu", "relu_", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid",
    "tanh", "leaky_relu", "dropout", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "contiguous",
    "boolean_dispatch", "interpolate",
}  # fmt: skip


def channelwise_modules() -> tuple[type, ...]:
    """Modules that treat each channel by itself and hold nothing of it."""
    from torch import nn

    return (
        nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU,
        nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool1d,
        nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample,
    )  # fmt: skip


def is_channelwise(node: fx.Node) -> bool:
    """Whether a call of a function or method treats each channel by itself."""
    return node.op in ("call_function", "call_method") and _call_name(node) in _CHANNELWISE


def _only_swapped(table: fx.Node) -> bool:
    """Whether all that read an embedding's words [N, L, width] make them [N, width, L]."""
    return bool(table.users) and all(
        user.op in ("call_function", "call_method")
        and _call_name(user) in _SWAPS
        and _axes(user) in ((0, 2, 1), (1, 2), (2, 1))
        for user in table.users
    )


def _axes(node: fx.Node) -> tuple[int, ...]:
    listed: Any = node.args[1:] or tuple(node.kwargs.values())
    if len(listed) == 1 and isinstance(listed[0], list | tuple):
        listed = listed[0]
    return tuple(axis % 3 for axis in listed if isinstance(axis, int))


def _call_name(node: fx.Node) -> str:
    target: Any = node.target
    if isinstance(target, str):
        return target
    if target is getattr or target is operator.getitem:
        return "getitem"
    # max_pool2d appears as torch's boolean_dispatch, which only ever wraps pooling.
    return str(getattr(target, "__name__", target))
