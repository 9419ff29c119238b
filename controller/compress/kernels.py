"""Kernel signatures: ``conv3x3:c32:k32:h28`` and the like, to text, from text, to a tiny graph.

``c`` input channels, ``k`` output channels, ``h`` input height and width; stride 1, same padding.
``dwconv`` is depthwise, ``gemm`` a fully connected layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from controller.compress.graph.normalize import OPSET
from controller.errors import FitError

_PATTERN = re.compile(r"(?:(conv|dwconv)(\d+)x(\d+):c(\d+):k(\d+):h(\d+)|gemm:c(\d+):k(\d+))\Z")
_IR_VERSION = 8
_TILE = 509  # weights repeat after so many values: xz then packs them to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A building block of a network, at batch 1."""

    kind: str  # "conv", "dwconv", "gemm"
    size: int  # of the window, 1 for gemm
    cin: int
    cout: int
    height: int  # and width; 1 for gemm

    @classmethod
    def parse(cls, signature: str) -> Kernel:
        """Read a signature.

        Raises:
            FitError: it is none, or its window is not square.
        """
        match = _PATTERN.match(signature)
        if match is None or match[2] != match[3]:
            raise FitError(f"'{signature}' is no kernel signature such as conv3x3:c32:k32:h28")
        if match[1] is None:
            return cls(kind="gemm", size=1, cin=int(match[7]), cout=int(match[8]), height=1)
        return cls(
            kind=match[1],
            size=int(match[2]),
            cin=int(match[4]),
            cout=int(match[5]),
            height=int(match[6]),
        )

    @property
    def signature(self) -> str:
        """As text."""
        if self.kind == "gemm":
            return f"gemm:c{self.cin}:k{self.cout}"
        window = f"{self.kind}{self.size}x{self.size}"
        return f"{window}:c{self.cin}:k{self.cout}:h{self.height}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        depth = 1 if self.kind == "dwconv" else self.cin
        return self.height**2 * self.size**2 * depth * self.cout

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return (self.cin,) if self.kind == "gemm" else (self.cin, self.height, self.height)


def graph(kernel: Kernel, *, seed: int) -> onnx.ModelProto:
    """A float model of the kernel and a ReLU (a fully connected layer has none), batch 1."""
    shape = (1, *kernel.input_shape)
    depth = 1 if kernel.kind == "dwconv" else kernel.cin
    window = () if kernel.kind == "gemm" else (kernel.size, kernel.size)
    weights = _tiled((kernel.cout, depth, *window), seed)
    bias = _tiled((kernel.cout,), seed + 1)
    if kernel.kind == "gemm":
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="kernel", transB=1),
        ]
        out: tuple[int, ...] = (1, kernel.cout)
    else:
        groups = kernel.cin if kernel.kind == "dwconv" else 1
        edge = kernel.size // 2
        nodes = [
            helper.make_node(
                "Conv",
                ["x", "w", "b"],
                ["z"],
                name="kernel",
                kernel_shape=list(window),
                pads=[edge] * 4,
                group=groups,
            ),
            helper.make_node("Relu", ["z"], ["y"], name="relu"),
        ]
        out = (1, kernel.cout, kernel.height, kernel.height)
    made = helper.make_graph(
        nodes,
        "kernel",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = helper.make_opsetid("", OPSET)
    model: onnx.ModelProto = helper.make_model(
        made, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="fitment"
    )
    return model


def _tiled(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Normal weights that repeat, scaled by fan-in so that outputs stay near one."""
    values = np.random.default_rng(seed).standard_normal(_TILE)
    fan_in = max(int(np.prod(shape[1:])), 1)
    scaled: NDArray[np.float32] = (np.resize(values, shape) / np.sqrt(fan_in)).astype(np.float32)
    return scaled
