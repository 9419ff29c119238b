"""The ladder: recipes from cheap to dear, for every runtime that the target allows."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from controller.compress.base import Pass
from controller.compress.passes.bias_correct import BiasCorrect
from controller.compress.passes.distil import Distil
from controller.compress.passes.emit_litert import EmitLitert
from controller.compress.passes.equalize import Equalize
from controller.compress.passes.export import AcceptOnnx, ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.passes.mixed import MixedPrecision
from controller.compress.passes.prune_structured import PruneStructured
from controller.compress.passes.qat import Qat
from controller.compress.passes.quantize_dynamic import QuantizeDynamic
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.reconstruct import Reconstruct
from controller.compress.passes.rows_as_images import RowsAsImages
from controller.compress.passes.shorten import Shorten
from controller.compress.passes.slimmable import TakeWidth, TrainSlimmable
from controller.compress.passes.smooth import Smooth
from controller.compress.passes.sparsify import Sparsify
from controller.compress.passes.store_weights import StoreWeights
from controller.compress.recipe import Recipe
from controller.compress.search.scheme import rank_schemes
from controller.domain.fleet import EXTRA_RUNGS
from controller.errors import FitError
from fitment.core.kernels import KernelTable
from profiles.schema import RULES

Trained = TypeVar("Trained", Distil, TrainSlimmable)

EFFORTS = ("quick", "thorough")
SLIMMABLE = "slimmable"
WIDTHS = (1.0, 0.5, 0.25)  # of the slimmable network; each becomes variants of its own


@dataclass(frozen=True, slots=True)
class Cut:
    """What one network of the ladder loses before it is distilled."""

    ratio: float  # of the channels of every layer
    activations: float | None = None  # share that shortening leaves; None: as deep as it was

    @property
    def text(self) -> str:
        """The part of a variant's name: "-short40-pruned50-kd"."""
        short = "" if self.activations is None else f"-short{round(self.activations * 100)}"
        return f"{short}-pruned{round(self.ratio * 100)}-kd"


QUICK_CUTS = (Cut(0.5),)  # a shortened network learns too little in a quick fit
THOROUGH_CUTS = (*(Cut(ratio) for ratio in (0.3, 0.5, 0.65)), Cut(0.5, 0.4), Cut(0.65, 0.4))
THOROUGH_TRAINING = 3  # times as many training inputs as a quick fit's
SHORT_TRAINING = 2  # times as many epochs where layers are new
SPARSITY = 0.8  # of weights that are zero for the transfer's sake
CALIBRATORS = ("percentile", "mse", "kl")  # beside minmax
QUICK_BITS = (4,)  # of weights, in int8 files
THOROUGH_BITS = (4, 3)
TRAINED_BITS = 2  # of weights, where only training with the rounding keeps the accuracy
TRAINED_CUTS = frozenset(cut.text for cut in THOROUGH_CUTS if cut.ratio >= 0.65)
"""Who wants two bits wants them of the narrowest networks; a wide one would train for minutes."""
PER_TENSOR, CENTRED, POWER_OF_TWO = RULES
SLIM_NAME = "-slim"
SYMMETRIC = ("u8s8", "s8s8")  # schemes whose weights have no zero point


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeTarget:
    """One runtime of the target: which format it reads, and in which schemes."""

    runtime: str  # "onnx", "litert"
    format: str  # what it reads: "onnx", "tflite"
    schemes: tuple[str, ...] = ("fp32", "u8s8", "s8s8")
    rules: tuple[str, ...] = ()  # of `RULES`: what its integer arithmetic cannot do without


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One variant to try."""

    name: str
    recipe: Recipe
    runtime: str
    format: str
    scheme: str
    pruned: str = ""  # the part of the name that says what was cut, "-pruned50-kd", "-slim50"
    rules: tuple[str, ...] = ()  # of its integer arithmetic, see `RULES`
    calibrator: str = ""  # of static int8
    weight_bits: int = 8  # of static int8; fewer make the transfer smaller
    stored: bool = False  # weights that stay float are stored small

    @property
    def slim(self) -> bool:
        """Whether it is a width of the slimmable network."""
        return self.pruned.startswith(SLIM_NAME)

    @property
    def label(self) -> str:
        """The name, with the runtime where it is not the usual one: unique in a ladder."""
        return self.name if self.runtime == "onnx" else f"{self.name}@{self.runtime}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """All rungs in order, and why the schemes are these."""

    rungs: tuple[Rung, ...]
    reasons: Mapping[str, str]  # by runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the ladder depends on."""

    targets: tuple[RuntimeTarget, ...]
    tables: tuple[KernelTable, ...] = ()
    effort: str = "quick"
    torch_source: bool = True
    multiple_of: int = 8
    recover: Mapping[str, float] | None = None  # the workload's hints for distillation
    machine: str = ""  # of the target; empty: this one
    extras: tuple[str, ...] = ()  # of `fleet.EXTRA_RUNGS`


def build(plan: Plan) -> Ladder:
    """Lay out the rungs.

    Raises:
        FitError: an effort or an extra that is not known, or a target without a runtime.
    """
    if plan.effort not in EFFORTS:
        raise FitError(f"effort '{plan.effort}' is not one of {', '.join(EFFORTS)}")
    check_extras(plan.extras)
    if not plan.targets:
        raise FitError("the target allows no runtime; see the profile's [[runtime]] tables")
    machine = plan.machine or platform.machine()
    rungs: list[Rung] = []
    reasons: dict[str, str] = {}
    for target in plan.targets:
        choice = rank_schemes(target.runtime, target.schemes, plan.tables, machine=machine)
        reasons[target.runtime] = choice.reason
        rungs.extend(_of_target(plan, target, choice.ranked))
    return Ladder(rungs=tuple(rungs), reasons=reasons)


def slim_text(width: float) -> str:
    """The part of a variant's name: "-slim50"."""
    return f"{SLIM_NAME}{round(width * 100)}"


def check_extras(extras: Iterable[str]) -> None:
    """Refuse a kind of rungs that there is not.

    Raises:
        FitError: there is one.
    """
    unknown = sorted(set(extras) - set(EXTRA_RUNGS))
    if unknown:
        raise FitError(f"there are no rungs '{unknown[0]}', only: {', '.join(EXTRA_RUNGS)}")


def plain_head(plan: Plan) -> Recipe:
    """The user's own network as fp32 ONNX: what all variants are compared with."""
    if plan.torch_source:
        return Recipe(steps=(FoldBatchNorm(), ExportOnnx()))
    return Recipe(steps=(AcceptOnnx(),))


def pruned_head(plan: Plan, cut: Cut) -> Recipe:
    """Shortened, pruned and distilled. Folding comes after: normalization helps recovery."""
    distil = _trained(plan, Distil())
    if cut.activations is not None:
        distil = replace(distil, epochs=distil.epochs * SHORT_TRAINING)
    shorten = () if cut.activations is None else (Shorten(activations=cut.activations),)
    criterion = "l1" if plan.effort == "quick" else "thinet"
    prune = PruneStructured(ratio=cut.ratio, multiple_of=plan.multiple_of, criterion=criterion)
    return Recipe(steps=(*shorten, prune, distil, FoldBatchNorm(), ExportOnnx()))


def slim_head(plan: Plan, level: int) -> Recipe:
    """One width of a network that was trained for all of them, once in a fit."""
    train = _trained(plan, TrainSlimmable(widths=WIDTHS, multiple_of=plan.multiple_of))
    return Recipe(steps=(train, TakeWidth(level=level), FoldBatchNorm(), ExportOnnx()))


def _trained(plan: Plan, usual: Trained) -> Trained:
    """A step of training with the workload's hints."""
    hints = plan.recover or {}
    more = 1 if plan.effort == "quick" else THOROUGH_TRAINING
    return replace(
        usual,
        epochs=int(hints.get("epochs", usual.epochs)),
        samples=int(hints.get("samples", usual.samples)) * more,
        batch=int(hints.get("batch", usual.batch)),
        learning_rate=hints.get("learning_rate", usual.learning_rate),
        temperature=hints.get("temperature", usual.temperature),
        alpha=hints.get("alpha", usual.alpha),
    )


def _heads(plan: Plan) -> list[tuple[str, Recipe]]:
    """Names and recipes of the float networks: as it is, cut, and at several widths."""
    heads = [("", plain_head(plan))]
    if plan.torch_source:
        cuts = QUICK_CUTS if plan.effort == "quick" else THOROUGH_CUTS
        heads += [(cut.text, pruned_head(plan, cut)) for cut in cuts]
        if SLIMMABLE in plan.extras:
            heads += [(slim_text(width), slim_head(plan, i)) for i, width in enumerate(WIDTHS)]
    return heads


def _of_target(plan: Plan, target: RuntimeTarget, static: tuple[str, ...]) -> Iterable[Rung]:
    for pruned, head in _heads(plan):
        bare = Rung(
            name=f"fp32{pruned}",
            recipe=head,
            runtime=target.runtime,
            format=target.format,
            scheme="fp32",
            pruned=pruned,
            rules=target.rules,
        )
        yield _with_tail(bare, bare.name, "fp32", ())
        schemes = static[:1] if plan.effort == "quick" else static[:2]
        for scheme in schemes:
            yield _static(bare, scheme, "minmax", f"int8-{scheme}{pruned}")
        if schemes and schemes[0] in SYMMETRIC and not target.rules:
            for bits in QUICK_BITS if plan.effort == "quick" else THOROUGH_BITS:
                yield _few_bits(bare, schemes[0], bits, plan.effort)
            yield from _thorough(bare, schemes[0], plan)
        if not pruned:
            yield from _of_plain(bare, plan, target, static)


def _of_plain(
    bare: Rung, plan: Plan, target: RuntimeTarget, static: tuple[str, ...]
) -> Iterable[Rung]:
    """What only the network as it is has: dynamic int8, smaller transfers, other calibrators."""
    if "dynamic" in target.schemes and target.format == "onnx" and not target.rules:
        yield _with_tail(bare, "int8-dynamic", "dynamic", (QuantizeDynamic(),))
    if static:
        yield from _smaller(bare, static[0], plan)
    if plan.effort == "thorough" and static:
        for calibrator in CALIBRATORS:
            yield _static(bare, static[0], calibrator, f"int8-{static[0]}-{calibrator}")
        smoothed = (Smooth(), *_quantized(bare, static[0]), BiasCorrect())
        yield _with_tail(bare, f"int8-{static[0]}-smooth", static[0], smoothed)
        if static[0] in SYMMETRIC and PER_TENSOR not in target.rules:
            by_tensor = replace(bare, rules=(*target.rules, PER_TENSOR))
            yield _static(by_tensor, static[0], "minmax", f"int8-{static[0]}-tensor")


def _quantized(bare: Rung, scheme: str, calibrator: str = "minmax") -> tuple[Pass, ...]:
    """Static int8 by the target's rules; one scale for all channels wants them even."""
    by_tensor = PER_TENSOR in bare.rules
    step = QuantizeStatic(
        scheme=scheme,
        calibrator=calibrator,
        per_channel=not by_tensor,
        centred=CENTRED in bare.rules,
        power_of_two=POWER_OF_TWO in bare.rules,
    )
    return (Equalize(), step) if by_tensor else (step,)


def _static(bare: Rung, scheme: str, calibrator: str, name: str) -> Rung:
    tail = (*_quantized(bare, scheme, calibrator), BiasCorrect())
    return replace(_with_tail(bare, name, scheme, tail), calibrator=calibrator)


def _few_bits(bare: Rung, scheme: str, bits: int, effort: str) -> Rung:
    """Int8 with fewer levels for the weights: as fast, and half the transfer."""
    few = Reconstruct(bits=bits, rounding="gptq" if effort == "quick" else "both")
    tail = (QuantizeStatic(scheme=scheme), few, BiasCorrect())
    name = f"int8-{scheme}-w{bits}{bare.pruned}"
    return replace(_with_tail(bare, name, scheme, tail), calibrator="minmax", weight_bits=bits)


def _smaller(bare: Rung, scheme: str, plan: Plan) -> Iterable[Rung]:
    """Smaller transfers of a network as it is, without training."""
    if plan.effort == "thorough" or not plan.torch_source:
        yield _sparse(bare, scheme)
    if bare.format == "onnx" and not plan.torch_source:
        yield _stored(bare, scheme)


def _sparse(bare: Rung, scheme: str) -> Rung:
    """Zeros for the transfer's sake, of a network that cannot or need not be trained."""
    zeros = Sparsify(sparsity=SPARSITY, method="sparsegpt", scope="global", refit=True)
    tail = (zeros, *_quantized(bare, scheme), BiasCorrect())
    return _with_tail(bare, f"int8-{scheme}-sparse{round(SPARSITY * 100)}", scheme, tail)


def _stored(bare: Rung, scheme: str) -> Rung:
    """For bytes: what no integer layer computes is stored small, too."""
    tail = (*_quantized(bare, scheme), BiasCorrect(), StoreWeights())
    return replace(_with_tail(bare, f"int8-{scheme}-stored", scheme, tail), stored=True)


def _thorough(bare: Rung, scheme: str, plan: Plan) -> Iterable[Rung]:
    """Dear ways to few bits, for one runtime: the float graph is the same for all."""
    if plan.effort == "thorough" and bare.format == "onnx" and not bare.slim:
        yield _mixed(bare, scheme)
        if bare.pruned in TRAINED_CUTS:
            yield _learned(bare, scheme, plan)


def _mixed(bare: Rung, scheme: str) -> Rung:
    """A width for each layer, in no more bytes than three bits everywhere."""
    tail = (MixedPrecision(scheme=scheme), BiasCorrect())
    name = f"int8-{scheme}-mixed{bare.pruned}"
    return replace(_with_tail(bare, name, scheme, tail), calibrator="minmax", weight_bits=3)


def _learned(bare: Rung, scheme: str, plan: Plan) -> Rung:
    """Trained with its rounding, taught by the user's own network."""
    hints = plan.recover or {}
    usual = Qat(scheme=scheme, bits=TRAINED_BITS)
    step = replace(
        usual,
        samples=int(hints.get("samples", usual.samples)),
        batch=int(hints.get("batch", usual.batch)),
        temperature=hints.get("temperature", usual.temperature),
        alpha=hints.get("alpha", usual.alpha),
    )
    made = _with_tail(bare, f"int8-{scheme}-w{TRAINED_BITS}-qat{bare.pruned}", scheme, (step,))
    return replace(made, calibrator="minmax", weight_bits=TRAINED_BITS)


def _with_tail(bare: Rung, name: str, scheme: str, tail: tuple[Pass, ...]) -> Rung:
    if bare.format == "tflite":
        tail = (RowsAsImages(), *tail, EmitLitert())
    recipe = bare.recipe + Recipe(steps=tail)
    return replace(bare, name=name, scheme=scheme, recipe=recipe)
