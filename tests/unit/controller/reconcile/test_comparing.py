"""Which two variants are meant, and that every measurement of them is found, part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.paired import Taken
from controller.errors import NotFound, UserError
from controller.reconcile import comparing
from controller.reconcile.rolling import RolloutPlan
from controller.testing import variant


@pytest.fixture
def context(world: Any) -> Any:
    """Two versions of one model and another model, each with an ``int8``."""
    store = world.store
    for number, (key, name) in enumerate((("m1", "m"), ("m2", "m"), ("o", "other"))):
        store.models.add(
            fleet.ModelVersion(
                id=key, name=name, version=str(number), digest=key, snapshot="/none",
                registered_at=float(number),
            )
        )  # fmt: skip
    cohort = fleet.Cohort(profile="p", hardware="sha256:h", stack="sha256:s")
    made = {"m1": ("int8", "fp32"), "m2": ("int8", "fp32", "tiny"), "o": ("int8",)}
    for key, names in made.items():
        variants = tuple(_named(name, f"{key}-{name}") for name in names)
        store.jobs.add(
            fleet.FitJob(
                id=f"job-{key}", model=key, cohort=cohort, status=fleet.JobStatus.DONE,
                created_at=1.0, variants=variants,
            )
        )  # fmt: skip
    return world.controller.context


def _named(name: str, bundle: str) -> fleet.Variant:
    made = variant(name, 1.0)
    return replace(made, bundle=variant(bundle, 1.0).bundle)


def test_a_name_is_that_of_the_newest_version_that_has_it(context: Any) -> None:
    pair = comparing.begin(context, "fp32", "int8", model="m")
    assert (pair.a.model, pair.b.model) == ("m2", "m2")
    older = comparing.begin(context, "fp32", "int8", model="m1")
    assert (older.a.model, older.b.model) == ("m1", "m1")
    assert older.digests.isdisjoint(pair.digests)


def test_a_digest_or_its_beginning_names_one(context: Any) -> None:
    whole = variant("m1-int8", 1.0).bundle.variant
    hexed = whole.removeprefix("sha256:")
    for text in (whole, hexed, hexed[:12], hexed[:12].upper()):
        pair = comparing.begin(context, "tiny", text)
        assert pair.b.digests == {whole}
        assert pair.b.model == "m1", "two versions may be compared"


@pytest.mark.parametrize(
    ("a", "b", "model", "error", "words"),
    [
        ("fp32", "int8", "", UserError, "variant of m, other: say which with --model"),
        ("fp32", "none-such", "m", NotFound, "no variant is named 'none-such'.*fp32, int8, tiny"),
        ("fp32", "int8", "none-such", NotFound, "no model 'none-such'"),
        ("fp32", "fp32", "", UserError, "the same variant"),
        ("fp32", "ab", "", NotFound, "no digest begins so"),
    ],
)
def test_what_could_mean_anything_is_refused(
    context: Any, a: str, b: str, model: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        comparing.begin(context, a, b, model=model)


def test_every_part_is_read_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "PART", 2)
    for name in "abcde":
        world.join(name)
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.settle()
    context = world.controller.context
    pair = comparing.begin(context, "fp32", "int8")
    taken: list[Taken] = []
    for place in pair.releases:
        after, more = 0, True
        while more:
            part, after = comparing.deployed(context, pair, place, after)
            taken += part
            more = after > 0
    assert sorted(t.device for t in taken) == list("abcde")
    studies, _ = comparing.studied(context, pair)
    assert {t.measurement.bundle for t in studies} <= pair.digests
    found = comparing.finish(pair, [*taken, *studies])
    assert sum(group.devices for group in found.groups) == 5


def test_what_it_is_compared_with_is_of_its_own_version(context: Any) -> None:
    """Agreement is with that version's fp32; and a digest says which model is meant."""
    older = variant("m1-int8", 1.0).bundle.variant
    pair = comparing.begin(context, "fp32", older)
    assert (pair.a.model, pair.b.model) == ("m1", "m1")
