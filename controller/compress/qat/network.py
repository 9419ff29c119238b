"""The graph that is shipped, as a torch module that can be trained as it will be rounded.

Quantizers stand where `quantize.placement` puts Q/DQ pairs, tensors of one scale group share one
step, and weights have a step for each output channel, so that what is trained is what the file
computes, up to rounding of the biases and of sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from controller.compress.graph.model import View, copied, model_input
from controller.compress.graph.normalize import normalized
from controller.compress.qat.lsq import LearnedStep
from controller.compress.qat.operators import OPERATORS
from controller.compress.quantize import gptq, numbers, placement, static
from controller.compress.quantize import layers as qlayers
from controller.compress.quantize.layers import Rounded
from controller.compress.quantize.observers import Range
from controller.errors import FitError

WHOLE_REACH = 127  # greatest level of int8 weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Both forms of a trained network."""

    fp32: onnx.ModelProto  # the weights before rounding
    quantized: onnx.ModelProto


class GraphNet(nn.Module):
    """An ONNX model with constant weights, trainable; quantized where ``scheme`` is given."""

    def __init__(
        self,
        model: onnx.ModelProto,
        ranges: Mapping[str, Range],
        *,
        scheme: str = "",
        bits: Mapping[str, float] | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: float model, batch normalizations folded.
            ranges: of its activations, from `ranges.collect`; where their steps begin.
            scheme: "u8s8" or "s8s8"; empty trains in float.
            bits: of the weights, by layer; eight where a layer is not named.

        Raises:
            FitError: an operator cannot be trained (the message names it), or a bad scheme.
        """
        super().__init__()
        self.graph, self._ranges, self._scheme = normalized(model), ranges, scheme
        self._source = model_input(self.graph).name
        self._refuse_unknown()
        view = View(self.graph)
        self._constants: dict[str, torch.Tensor] = {}
        self._index: dict[str, str] = {}  # initializer -> its parameter
        self.weights = nn.ParameterDict()
        self.steps = nn.ModuleDict()  # of weights, by the same key
        self.activations = nn.ModuleDict()
        self._groups: dict[str, str] = {}  # tensor -> key of its quantizer
        self._placed = self._quantized = None
        if scheme:
            if scheme not in ("u8s8", "s8s8"):
                raise FitError(f"training needs symmetric weights: u8s8 or s8s8, not '{scheme}'")
            self._placed = placement.place(self.graph, float_output=scheme != "s8s8")
            self._quantized = static.quantize(model, ranges, scheme=scheme)
            self._place_activations()
        self._place_weights(view, bits or {})

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        known: dict[str, Any] = {self._source: self._rounded(self._source, inputs)}
        for node in self.graph.graph.node:
            if node.op_type == "Constant":
                continue
            values = [self._value(name, known) for name in node.input]
            if len(values) > 2 and values[2] is not None and node.op_type in ("Conv", "Gemm"):
                values[2] = self._whole_bias(node, values[2])
            made = OPERATORS[node.op_type](node, values)
            known[node.output[0]] = self._rounded(node.output[0], made)
        answer: torch.Tensor = known[self.graph.graph.output[0].name]
        return answer

    def export(self) -> Trained:
        """The float model with the trained weights, and the file in Q/DQ form.

        Raises:
            FitError: the network was trained in float.
        """
        if self._placed is None:
            raise FitError("a network that was trained in float has no quantized form")
        fp32 = self.fp32()
        quantized = static.quantize(fp32, self._learned_ranges(), scheme=self._scheme)
        for layer in qlayers.quantized_layers(quantized):
            made = self._levels(layer.node.name)
            if made is not None:
                qlayers.install(layer, made)
        onnx.checker.check_model(quantized)
        return Trained(fp32=fp32, quantized=quantized)

    def fp32(self) -> onnx.ModelProto:
        """The float model with the trained weights, not rounded."""
        found = copied(self.graph)
        for tensor in found.graph.initializer:
            if tensor.name in self._index:
                values = self.weights[self._index[tensor.name]].detach().numpy()
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        return found

    def _refuse_unknown(self) -> None:
        kinds = {n.op_type for n in self.graph.graph.node if n.op_type != "Constant"}
        unknown = sorted(kinds - set(OPERATORS))
        if unknown:
            raise FitError(f"operators that cannot be trained: {', '.join(unknown)}")

    def _place_activations(self) -> None:
        assert self._placed is not None
        dtype = np.dtype(static.ACTIVATION_TYPES[self._scheme])
        limits = np.iinfo(dtype)
        scales = static.scales(self.graph, self._placed, self._ranges, dtype, numbers.Rules())
        keys: dict[str, str] = {}  # parameters' names have no dots
        fixed = {n.output[0] for n in self.graph.graph.node if n.op_type == "Sigmoid"}
        for tensor, group in self._placed.groups.items():
            keys.setdefault(group, f"a{len(keys)}")
            key = self._groups[tensor] = keys[group]
            if key not in self.activations:
                zero = int(scales[tensor].zero_point)
                self.activations[key] = LearnedStep(
                    torch.tensor(float(scales[tensor].scale)),
                    int(limits.min) - zero,
                    int(limits.max) - zero,
                )
        for tensor in fixed & set(self._groups):
            self.activations[self._groups[tensor]].step.requires_grad_(False)  # noqa: FBT003

    def _place_weights(self, view: View, bits: Mapping[str, float]) -> None:
        layers = {}
        if self._quantized is not None:
            layers = {la.node.name: la for la in qlayers.quantized_layers(self._quantized)}
        for node in self.graph.graph.node:
            constant = {n: view.constant(n) for n in node.input if n not in self._index}
            found = {n: v for n, v in constant.items() if v is not None}
            heavy = node.op_type in ("Conv", "Gemm")
            trains = heavy and node.input[1] in found and (not self._scheme or node.name in layers)
            for place, name in enumerate(node.input):
                if name not in found:
                    continue
                values = torch.from_numpy(found[name].copy())
                if trains and place in (1, 2):
                    key = self._index[name] = f"w{len(self._index)}"
                    self.weights[key] = nn.Parameter(values)
                else:
                    self._constants[name] = values
            if trains and self._scheme:
                self._place_step(node, found[node.input[1]], bits.get(node.name, 8.0))
        if self._scheme:
            self._round_constants()

    def _place_step(self, node: onnx.NodeProto, values: Any, bits: float) -> None:
        """The step of each output channel begins where plain rounding errs least."""
        transposed = node.op_type == "Gemm" and not _transposes(node)
        matrix = values.T if transposed else values.reshape(len(values), -1)
        scale = gptq.best_scale(matrix.astype(np.float64), np.eye(matrix.shape[1]), bits)
        shape = [1, -1] if transposed else [-1] + [1] * (values.ndim - 1)
        step = torch.from_numpy(scale.astype(np.float32)).reshape(shape)
        reach = gptq.reach(bits)
        self.steps[self._index[node.input[1]]] = LearnedStep(step, -reach, reach)

    def _round_constants(self) -> None:
        """Constants that are not trained have the values that the file will give them."""
        assert self._quantized is not None
        stored = View(self._quantized)
        quantized = {n.name: n for n in self._quantized.graph.node}
        for node in self.graph.graph.node:
            twin = quantized.get(node.name)
            if twin is None or node.op_type not in ("MatMul", "Add", "Mul", "Conv", "Gemm"):
                continue
            for name, reader_name in zip(node.input, twin.input, strict=False):
                reader = stored.producers.get(reader_name)
                if (
                    name not in self._constants
                    or reader is None
                    or reader.op_type != "DequantizeLinear"
                ):
                    continue
                self._constants[name] = torch.from_numpy(_dequantized(reader, stored))

    def _value(self, name: str, known: Mapping[str, Any]) -> Any:
        if not name:
            return None
        if name in self._index:
            key = self._index[name]
            weights = self.weights[key]
            return self.steps[key](weights) if key in self.steps else weights
        return known[name] if name in known else self._constants[name]

    def _whole_bias(self, node: onnx.NodeProto, bias: torch.Tensor) -> torch.Tensor:
        """The bias in whole units of input step times weight step, as the file holds it."""
        weights, source = self._index.get(node.input[1]), self._groups.get(node.input[0])
        if weights is None or source is None or weights not in self.steps:
            return bias
        steps: Any = (self.steps[weights], self.activations[source])
        unit: torch.Tensor = (steps[0].step.flatten() * steps[1].step).detach()
        return bias + ((bias / unit).round() * unit - bias).detach()

    def _rounded(self, name: str, values: torch.Tensor) -> torch.Tensor:
        key = self._groups.get(name)
        if key is None:
            return values
        found: torch.Tensor = self.activations[key](values)
        return found

    def _learned_ranges(self) -> dict[str, Range]:
        """Ranges from which `static.quantize` derives the very steps that were learned."""
        found = dict(self._ranges)
        for tensor, key in self._groups.items():
            quantizer: Any = self.activations[key]
            step = float(quantizer.step.detach())
            found[tensor] = Range(low=quantizer.low * step, high=quantizer.high * step)
        return found

    def _levels(self, name: str) -> Rounded | None:
        node = next(n for n in self.graph.graph.node if n.name == name)
        key = self._index.get(node.input[1])
        if key is None or key not in self.steps:
            return None
        step: Any = self.steps[key]
        with torch.inference_mode():
            levels = step.levels(self.weights[key]).to(torch.int8).numpy()
            scales = step.step.flatten().numpy().astype(np.float64)
        return Rounded(levels=levels, scales=scales, sqnr_db=float("nan"))


def _transposes(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def _dequantized(reader: onnx.NodeProto, view: View) -> Any:
    values, scale, zero = (view.constant(name) for name in reader.input)
    assert values is not None
    assert scale is not None
    assert zero is not None
    axis = next((a.i for a in reader.attribute if a.name == "axis"), 0)
    if scale.ndim:
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((values.astype(np.float32) - zero.astype(np.float32)) * scale).astype(np.float32)
