"""What each layer alone does to the outputs at each width, on inputs without labels.

Only that layer is quantized, its weights and the tensors that it reads and writes; all others
stay float. Noise powers of single layers are then added up to foretell a mixture, as HAWQ (Dong
et al. 2019) and ModelOpt do; what the mixture really does is measured by the guard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from controller.compress import evidence
from controller.compress.graph.model import Array, Inputs, run_batches
from controller.compress.quantize.widths import FLOAT, Composer

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Of one layer at one width."""

    noise: float  # Σ (ref − found)² / Σ ref² over all outputs; 10^(−SQNR/10)
    agreement: float  # with fp32, 0..1
    wire_bytes: int  # of its weights

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of the outputs in dB; infinity without noise."""
        return math.inf if self.noise == 0.0 else -10.0 * math.log10(self.noise)


def measure(
    composer: Composer, fp32: onnx.ModelProto, inputs: Inputs, *, widths: Sequence[float]
) -> Mapping[str, Mapping[float, Effect]]:
    """Effects by layer and width.

    Args:
        composer: of the same float model.
        fp32: the float model.
        inputs: real inputs [N, …], none of those that rounding compensated for.
        widths: bits, `FLOAT` among them if a layer may stay float.
    """
    reference = answers(fp32, inputs)
    found: dict[str, dict[float, Effect]] = {}
    for name in composer.layers:
        found[name] = {}
        for bits in widths:
            alone = {other: bits if other == name else FLOAT for other in composer.layers}
            given = reference if bits == FLOAT else answers(composer.model(alone), inputs)
            found[name][bits] = Effect(
                noise=noise(reference, given),
                agreement=evidence.agreement(reference, given),
                wire_bytes=composer.wire_bytes(name, bits),
            )
    return found


def answers(model: onnx.ModelProto, inputs: Inputs) -> Array:
    """First output for ``inputs`` [N, …], in batches."""
    parts: list[Array] = []
    run_batches(model, inputs, lambda _names, values: parts.append(values[0]), batch=BATCH)
    return np.concatenate(parts)


def noise(reference: Array, found: Array) -> float:
    """Noise power over signal power; infinity where something is not finite."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    wrong = float(np.square(reference.astype(np.float64) - found).sum())
    share = wrong / max(signal, 1e-300)
    return share if math.isfinite(share) else math.inf


def by_input(reference: Array, found: Array) -> Array:
    """Squared error of each input's outputs [N]."""
    wrong = np.square(reference.astype(np.float64) - found).reshape(len(reference), -1).sum(axis=1)
    return np.asarray(np.nan_to_num(wrong, nan=np.inf))
