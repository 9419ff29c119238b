"""Gathers what devices measured of two variants; `domain.comparison` sets them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.domain import fleet
from controller.domain.comparison import Comparison, Side, compare
from controller.domain.paired import Taken
from controller.errors import NotFound, UserError
from controller.reconcile.context import Context
from fitment.core.deployment import StudyKind

PART = 200
"""Records that are read at once."""
_DIGITS = 6
"""Of a digest, at least, where it stands for a variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two variants, and where measurements of them may be."""

    a: Side
    b: Side
    releases: tuple[str, ...]  # that hold one of them

    @property
    def digests(self) -> frozenset[str]:
        """Of both."""
        return self.a.digests | self.b.digests


def begin(context: Context, a: str, b: str, *, model: str = "") -> Pair:
    """Find two variants, each given by its name or by its digest.

    Args:
        context: the loop's hands.
        a: what is compared with; a name, or a digest or the beginning of one.
        b: what is looked at.
        model: id of a model version, or a model's name: then its newest version that has the
            variant.

    Raises:
        NotFound: no fit has made such a variant.
        UserError: the name could be two models', or both are the same.
    """
    jobs = context.store.jobs.find()
    other = _side(context, jobs, b, model)
    try:  # of the same version: agreement is with that version's own fp32
        one = _side(context, jobs, a, other.model)
    except NotFound:
        one = _side(context, jobs, a, model)
    both = one.digests | other.digests
    if one.digests & other.digests:
        raise UserError(f"'{a}' and '{b}' are the same variant; give two")
    held = [r.id for r in context.store.releases.find() if both & set(r.variants.values())]
    return Pair(a=one, b=other, releases=tuple(held))


def deployed(context: Context, pair: Pair, release: str, after: int = 0) -> tuple[list[Taken], int]:
    """What some deployments of a release measured, and the place to go on from; 0: that was all.

    A part at a time, so that a large fleet does not keep the engine's thread.
    """
    rows = context.store.deployments.page(PART, after=after, release=release)
    taken = [
        Taken(
            device=d.device, source=f"deployment {d.id}", measurement=d.measurement,
            profile=d.cohort.profile if d.cohort else "", at=d.ended_at or d.created_at,
        )
        for _, d in rows
        if d.measurement is not None and d.measurement.bundle in pair.digests
    ]  # fmt: skip
    return taken, rows[-1][0] if len(rows) == PART else 0


def studied(context: Context, pair: Pair, after: int = 0) -> tuple[list[Taken], int]:
    """The same for candidates that were timed without being deployed."""
    rows = context.store.studies.page(PART, after=after, kind=StudyKind.BENCHMARK)
    taken = [
        Taken(
            device=s.device, profile=s.cohort.profile, at=s.done_at, source=f"study {s.id}",
            measurement=s.measurement,
        )
        for _, s in rows
        if s.measurement is not None and s.measurement.bundle in pair.digests
    ]  # fmt: skip
    return taken, rows[-1][0] if len(rows) == PART else 0


def finish(pair: Pair, taken: Sequence[Taken]) -> Comparison:
    """Both beside each other."""
    groups, devices = compare(pair.a.digests, pair.b.digests, taken)
    return Comparison(a=pair.a, b=pair.b, groups=groups, devices=devices)


def _side(context: Context, jobs: Sequence[fleet.FitJob], text: str, model: str) -> Side:
    wanted = text.removeprefix("sha256:").lower()
    models = {m.id: m for m in context.store.models.find()}
    if model and model not in models and model not in {m.name for m in models.values()}:
        raise NotFound(f"no model '{model}'; see: fitment model list")
    found: dict[str, dict[str, fleet.Variant]] = {}  # model version -> digest -> variant
    for job in jobs:
        known = models.get(job.model)
        if known is None or model not in ("", known.id, known.name):
            continue
        for variant in job.variants:
            hexed = variant.bundle.variant.removeprefix("sha256:")
            if variant.name == text or (len(wanted) >= _DIGITS and hexed.startswith(wanted)):
                found.setdefault(job.model, {})[variant.bundle.variant] = variant
    if not found:
        raise NotFound(_nothing(jobs, text, models, model))
    names = sorted({models[key].name for key in found})
    if len(names) > 1:
        raise UserError(f"'{text}' is a variant of {', '.join(names)}: say which with --model")
    newest = max(found, key=lambda key: (models[key].registered_at, key))
    variants = tuple(found[newest][digest] for digest in sorted(found[newest]))
    if len({v.name for v in variants}) > 1:
        raise UserError(f"'{text}' begins {len(variants)} digests; give more of it")
    return Side(
        name=variants[0].name, model=newest, model_name=models[newest].name,
        version=models[newest].version, variants=variants,
    )  # fmt: skip


def _nothing(
    jobs: Sequence[fleet.FitJob], text: str, models: dict[str, fleet.ModelVersion], model: str
) -> str:
    known = sorted(
        {
            v.name
            for job in jobs
            for v in job.variants
            if not model
            or model in (job.model, models[job.model].name if job.model in models else "")
        }
    )
    told = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    there = f"there are {told}" if told else "make some: fitment fit MODEL"
    return f"no variant is named '{text}', and no digest begins so; {there}"
