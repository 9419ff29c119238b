"""What widths do to a model's answers, measured for the guard; labels only through the metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from controller.compress.graph.model import Array, Inputs
from controller.compress.quantize import sensitivity
from controller.compress.quantize.widths import Composer, Widths

WORST = 100  # inputs that sets of layers are ranked on


class ModelJudge:
    """A `search.guard.Judge` over real models and guard inputs."""

    def __init__(
        self,
        composer: Composer,
        fp32: onnx.ModelProto,
        inputs: Inputs,
        score: Callable[[Array], float],
    ) -> None:
        """``score`` says how good the outputs for all ``inputs`` [N, …] are; higher is better."""
        self._composer, self._inputs, self._score = composer, inputs, score
        self.reference = sensitivity.answers(fp32, inputs)
        self._best = score(self.reference)
        self._last: tuple[dict[str, float], Array] | None = None

    def answers(self, widths: Widths) -> Array:
        """Outputs with these widths on all inputs; the last ones are kept."""
        if self._last is None or self._last[0] != widths:
            found = sensitivity.answers(self._composer.model(widths), self._inputs)
            self._last = (dict(widths), found)
        return self._last[1]

    def drop(self, widths: Widths) -> float:
        """Fp32's score less this one's."""
        return self._best - self._score(self.answers(widths))

    def worst(self, widths: Widths) -> Any:
        """Indices of the inputs with the largest squared error."""
        wrong = sensitivity.by_input(self.reference, self.answers(widths))
        return np.argsort(-wrong, kind="stable")[:WORST]

    def noise(self, widths: Widths, among: Any) -> float:
        """Noise over signal on the inputs ``among``."""
        found = sensitivity.answers(self._composer.model(widths), self._inputs[among])
        return sensitivity.noise(self.reference[among], found)

    def cost(self, widths: Widths) -> float:
        """Bytes of all weights on the wire."""
        return float(sum(self._composer.wire_bytes(n, bits) for n, bits in widths.items()))
