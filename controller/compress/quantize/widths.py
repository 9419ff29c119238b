"""One model with weights of any width in each layer: float, eight bits, or fewer levels.

A layer is rounded once to each width (with the inputs that the all-int8 model gives it) and put
together with others as often as a search asks. What a width costs on the wire is asked of the
coder itself: entropy says a fifth too little for small tensors of few levels.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from controller.compress.graph.model import Inputs, View, copied
from controller.compress.graph.normalize import normalized
from controller.compress.quantize import gptq, placement, reconstruct, static
from controller.compress.quantize import layers as quantized
from controller.compress.quantize.observers import Range
from controller.errors import FitError

FLOAT, WHOLE = 32.0, 8.0  # widths in bits: not quantized; int8 with all of its levels
REACHES = (1, 2, 3, 4, 5, 6, 7, 9, 11, 15, 31)  # greatest levels that are tried
FEW = tuple(math.log2(2 * reach + 2) for reach in REACHES)  # 2 to 6 bits, whole ones among them
Widths = Mapping[str, float]  # layer -> bits; all layers are named


class Composer:
    """Puts models together from layers of chosen widths."""

    def __init__(
        self, fp32: onnx.ModelProto, ranges: Mapping[str, Range], inputs: Inputs, *, scheme: str
    ) -> None:
        """Prepare.

        Args:
            fp32: float model, batch normalizations folded.
            ranges: from `ranges.collect` of the same model.
            inputs: real inputs [N, …] that rounding compensates for; no labels.
            scheme: "u8s8" or "s8s8"; fewer levels need symmetric weights.

        Raises:
            FitError: the scheme has no symmetric weights, or no layer can be quantized.
        """
        if scheme == "u8u8":
            raise FitError("mixed precision needs symmetric weights: scheme u8s8 or s8s8")
        self._fp32, self._ranges, self._inputs, self._scheme = fp32, ranges, inputs, scheme
        self._aims = quantized.float_weights(fp32)
        self._skipped: dict[frozenset[str], onnx.ModelProto] = {}
        self._rounded: dict[tuple[str, float], quantized.Rounded] = {}
        self._sizes: dict[tuple[str, float], int] = {}
        self._hessians: dict[str, list[quantized.Double]] = {}
        self._factors: dict[str, list[gptq.Factor]] = {}
        self._whole = static.quantize(fp32, ranges, scheme=scheme)
        found = {layer.node.name: layer for layer in quantized.quantized_layers(self._whole)}
        self._layers = {name: layer for name, layer in found.items() if name in self._aims}
        if not self._layers:
            raise FitError("no convolution or product with constant weights can be quantized")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose width can be chosen, in the order of the graph."""
        return tuple(self._layers)

    def all_at(self, bits: float, *, edges: float | None = None) -> dict[str, float]:
        """Every layer at ``bits``, the first and the last at ``edges`` where that is given."""
        outer = {self.layers[0], self.layers[-1]} if edges is not None else set()
        return {n: edges if edges is not None and n in outer else bits for n in self.layers}

    def model(self, widths: Widths) -> onnx.ModelProto:
        """The model with these widths. Layers at `FLOAT` stay float, with their own tensors.

        Raises:
            FitError: a layer is missing or unknown.
        """
        if set(widths) != set(self._layers):
            wrong = ", ".join(sorted(set(widths) ^ set(self._layers)))
            raise FitError(f"widths name all layers and no others; these differ: {wrong}")
        result = copied(self._base(frozenset(n for n, bits in widths.items() if bits == FLOAT)))
        for layer in quantized.quantized_layers(result):
            bits = widths.get(layer.node.name, FLOAT)
            if bits < WHOLE:
                quantized.install(layer, self.rounded(layer.node.name, bits))
        return result

    def rounded(self, name: str, bits: float) -> quantized.Rounded:
        """A layer's weights at fewer bits."""
        key = (name, bits)
        if key not in self._rounded:
            layer = self._layers[name]
            if name not in self._hessians:
                self._hessians[name] = reconstruct.layer_hessians(self._whole, layer, self._inputs)
                self._factors[name] = [gptq.factored(h) for h in self._hessians[name]]
            self._rounded[key] = reconstruct.round_layer(
                layer, self._aims[name], self._hessians[name], bits, self._factors[name]
            )
        return self._rounded[key]

    def wire_bytes(self, name: str, bits: float) -> int:
        """Bytes that a layer's weights take in the transport form; an estimate, coded alone."""
        key = (name, bits)
        if key not in self._sizes:
            self._sizes[key] = coded_bytes(self._stored(name, bits))
        return self._sizes[key]

    def joint_bytes(self, widths: Widths) -> int:
        """Bytes that all weights take when they are coded together, as the transport form does.

        Differs from the sum of `wire_bytes`: tensors of like levels find matches in each other.
        """
        return coded_bytes(b"".join(self._stored(n, widths[n]) for n in self._layers))

    def _stored(self, name: str, bits: float) -> bytes:
        if bits == FLOAT:
            return self._aims[name].tobytes()
        if bits == WHOLE:
            return numpy_helper.to_array(self._layers[name].weights).tobytes()
        return self.rounded(name, bits).levels.tobytes()

    def groups(self) -> tuple[frozenset[str], ...]:
        """Sets of layers that must turn float together for one integer tensor to become float.

        Every layer that reads or writes the tensor, or another of the same scale, is in its set;
        layers that stand alone at a tensor are sets of one.
        """
        model = normalized(self._fp32)
        view = View(model)
        placed = placement.place(model, float_output=self._scheme != "s8s8")
        touched: dict[str, set[str]] = {}
        for node in model.graph.node:
            if node.name in self._layers:
                for tensor in (node.input[0], placement.end_of(node, view)):
                    if tensor in placed.groups:
                        touched.setdefault(placed.groups[tensor], set()).add(node.name)
        alone = {frozenset({name}) for name in self._layers}
        found = alone | {frozenset(names) for names in touched.values()}
        order = {name: place for place, name in enumerate(self._layers)}
        return tuple(sorted(found, key=lambda g: (len(g), sorted(order[n] for n in g))))

    def _base(self, float_layers: frozenset[str]) -> onnx.ModelProto:
        if not float_layers:
            return self._whole
        if float_layers not in self._skipped:
            self._skipped[float_layers] = static.quantize(
                self._fp32, self._ranges, scheme=self._scheme, skip=float_layers
            )
        return self._skipped[float_layers]


def coded_bytes(data: bytes) -> int:
    """Size of ``data`` after the transport form's coder, without its container.

    >>> coded_bytes(bytes(100_000)) < 100
    True
    """
    # No dictionary beyond the data: clearing 64 MiB takes longer than coding a layer.
    dictionary = max(4096, 1 << max(len(data) - 1, 1).bit_length())
    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))
