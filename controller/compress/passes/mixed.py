"""Mixed precision: every layer gets the width that its effect on the outputs is worth.

Each layer alone is measured at each width on calibration inputs (`quantize.sensitivity`), an exact
solver chooses under a budget (`search.allocate`), and a guard widens what still does harm on the
guard set and gives back what was not needed (`search.guard`). One half of the calibration set is
what rounding compensates for, the other what effects are measured on. Labels enter only through
the workload's metric on the guard set; test inputs are not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from controller.catalog.workload import GUARD
from controller.compress import evidence, predict
from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.graph import model as graph_model
from controller.compress.search import allocate
from controller.compress.search.guard import Guarded, guard
from controller.errors import FitError
from fitment.core.kernels import KernelTable

ATTEMPTS = 8  # at a choice whose weights, coded together, keep the size budget
CLOSER = 0.995

if TYPE_CHECKING:
    import onnx

    from controller.compress.quantize.judge import ModelJudge
    from controller.compress.quantize.sensitivity import Effect
    from controller.compress.quantize.widths import Composer


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision(Pass):
    """Quantize with a width for each layer.

    The size budget is ``wire_bytes`` of all weights together, or, where that is 0, what uniform
    weights of ``like_bits`` bits take (first and last layer at eight, as `reconstruct` has them).
    With ``latency_ms`` and the device's kernel ``table`` layers may also stay float, where the
    table says that this is quick enough; the time of changing between the two is not counted.
    The guard widens layers until the metric's drop on the guard set is at most ``drop_max``, and
    may exceed the size budget for it; the evidence has the bytes in the end.
    """

    name: ClassVar[str] = "mixed_precision"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})

    scheme: str = "u8s8"
    calibrator: str = "minmax"
    like_bits: float = 3.0
    wire_bytes: int = 0
    drop_max: float = 0.01
    latency_ms: float = 0.0
    table: KernelTable | None = None

    def __post_init__(self) -> None:
        wrong = (
            (not 2 <= self.like_bits <= 8, f"like_bits is 2 to 8, not {self.like_bits:g}"),
            (self.wire_bytes < 0, "wire_bytes is not negative"),
            (not self.drop_max >= 0, f"drop_max is not negative, but {self.drop_max:g}"),
            (self.latency_ms > 0 and self.table is None, "latency_ms needs a kernel table"),
        )
        for bad, why in wrong:
            if bad:
                raise FitError(f"{self.name}: {why}")

    @property
    def text(self) -> str:
        """Without the table's many rows."""
        named = [f"{k}={v}" for k, v in self.settings.items() if k != "table"]
        return f"{self.name}({', '.join(named)})"

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import ranges, sensitivity
        from controller.compress.quantize.widths import FEW, FLOAT, WHOLE, Composer

        fp32, inputs = candidate.payload, context.calibration
        found = ranges.collect(fp32, inputs, calibrator=self.calibrator)
        composer = Composer(fp32, found, inputs[::2], scheme=self.scheme)
        widths = (WHOLE, *FEW, *((FLOAT,) if self.latency_ms > 0 else ()))
        effects = sensitivity.measure(composer, fp32, inputs[1::2], widths=widths)
        chosen = self.choose(composer, fp32, effects)
        judge = _judge(composer, fp32, context)
        guarded = guard(chosen, composer.groups(), judge, limit=self.drop_max)
        return Applied(
            payload=composer.model(guarded.widths),
            numbers={
                "predicted_sqnr_db": _decibels(effects[n][b].noise for n, b in chosen.items()),
                "wire_bytes_allocated": composer.joint_bytes(chosen),
                "wire_bytes": composer.joint_bytes(guarded.widths),
                **_told(guarded, judge),
            },
        )

    def choose(
        self,
        composer: Composer,
        fp32: onnx.ModelProto,
        effects: Mapping[str, Mapping[float, Effect]],
    ) -> dict[str, float]:
        """The solver's choice: bits by layer.

        Raises:
            FitError: no choice keeps the budgets.
        """
        from controller.compress.quantize.widths import FLOAT, WHOLE

        names = composer.layers
        size = float(self.wire_bytes)
        if not size:
            uniform = composer.all_at(self.like_bits, edges=WHOLE)
            size = float(composer.joint_bytes(uniform))
        times, left = self._times(fp32, names)
        options = [
            [
                allocate.Option(
                    harm=effect.noise,
                    costs=(float(effect.wire_bytes), times[name][bits == FLOAT]),
                )
                for bits, effect in effects[name].items()
            ]
            for name in names
        ]
        limit = size
        for _ in range(ATTEMPTS):
            picked = allocate.allocate(options, (limit, left))
            chosen = {n: tuple(effects[n])[k] for n, k in zip(names, picked, strict=True)}
            together = composer.joint_bytes(chosen)
            if together <= size:
                return chosen
            limit *= CLOSER * size / together  # sums of single sizes were too low an estimate
        raise FitError(f"no choice of widths codes to {size:.0f} bytes or less")

    def _times(
        self, fp32: onnx.ModelProto, names: Sequence[str]
    ) -> tuple[dict[str, tuple[float, float]], float]:
        """Milliseconds of each layer (int8, float), and the budget that is left for layers."""
        if self.table is None or not self.latency_ms:
            return dict.fromkeys(names, (0.0, 0.0)), math.inf
        from controller.compress.graph.normalize import normalized

        layers = graph_model.layers(normalized(fp32))
        fixed, integer = predict.by_layer(layers, self.table, self.scheme)
        fixed_float, as_float = predict.by_layer(layers, self.table, "fp32")
        pairs = zip(layers, zip(integer, as_float, strict=True), strict=True)
        times = {layer.name: both for layer, both in pairs}
        outside = sum(both[1] for name, both in times.items() if name not in names)
        left = self.latency_ms - max(fixed, fixed_float) - outside
        return times, left

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        del context
        asked, found = graph_model.macs(before.payload), graph_model.macs(after.payload)
        if asked != found:
            raise FitError(f"the mixed model does {found} multiply-accumulates instead of {asked}")
        return {"macs": found}


def _judge(composer: Composer, fp32: onnx.ModelProto, context: Context) -> ModelJudge:
    from controller.compress.quantize.judge import ModelJudge

    split = context.splits[GUARD]
    return ModelJudge(
        composer,
        fp32,
        context.workload.real(split.inputs),
        lambda outputs: context.workload.metric(outputs, split.labels),
    )


def _told(guarded: Guarded, judge: ModelJudge) -> Numbers:
    """The guard's story in numbers."""
    from controller.compress.quantize.widths import FLOAT

    found = judge.answers(guarded.widths)
    sqnr = evidence.sqnr_db(judge.reference, found)
    return {
        "guard_drop_before": guarded.drop_before,
        "guard_drop": guarded.drop,
        "guard_met": float(guarded.met),
        "guard_agreement": evidence.agreement(judge.reference, found),
        "guard_sqnr_db": math.inf if sqnr is None else sqnr,
        "layers_widened": len(guarded.widened),
        "steps_given_back": guarded.given_back,
        "steps_undone": guarded.undone,
        "layers_float": sum(bits == FLOAT for bits in guarded.widths.values()),
        **{f"bits {name}": round(bits, 3) for name, bits in guarded.widths.items()},
    }


def _decibels(noises: Iterable[float]) -> float:
    total = sum(noises)
    return math.inf if total == 0 else -10.0 * math.log10(total)
