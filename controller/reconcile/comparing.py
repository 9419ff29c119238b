"""Gathers what devices measured of two variants; `domain.comparison` sets them side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller.domain import fleet
from controller.domain.comparison import Comparison, Side, compare
from controller.domain.paired import Taken
from controller.errors import NotFound, UserError
from controller.reconcile.context import Context
from fitment.core.deployment import StudyKind

_DIGITS = 6
"""Of a digest, at least, where it stands for a variant."""


def of(context: Context, a: str, b: str, *, model: str = "") -> Comparison:
    """Compare two variants, each given by its name or by its digest.

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
    one, other = (_side(context, jobs, text, model) for text in (a, b))
    if one.digests & other.digests:
        raise UserError(f"'{a}' and '{b}' are the same variant; give two")
    groups, devices = compare(one.digests, other.digests, _taken(context, one, other))
    return Comparison(a=one, b=other, groups=groups, devices=devices)


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


def _taken(context: Context, a: Side, b: Side) -> Iterator[Taken]:
    """Measurements of either, from deployments of releases that hold one, and from studies."""
    digests, store = a.digests | b.digests, context.store
    profiles = {d.name: d.profile for d in store.devices.find()}
    for release in store.releases.find():
        if not digests & set(release.variants.values()):
            continue
        for deployment in store.deployments.find(release=release.id):
            measured = deployment.measurement
            if measured is not None and measured.bundle in digests:
                profile = deployment.cohort.profile if deployment.cohort else ""
                yield Taken(
                    device=deployment.device, source=f"deployment {deployment.id}",
                    profile=profile or profiles.get(deployment.device, ""), measurement=measured,
                    at=deployment.ended_at or deployment.created_at,
                )  # fmt: skip
    for study in store.studies.find(kind=StudyKind.BENCHMARK):
        if study.measurement is not None and study.measurement.bundle in digests:
            yield Taken(
                device=study.device, profile=study.cohort.profile, at=study.done_at,
                source=f"study {study.id}", measurement=study.measurement,
            )  # fmt: skip
