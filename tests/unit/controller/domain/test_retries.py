"""Devices that are tried again keep their place in their wave's share, and take nobody else's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.domain import rollout as rules
from controller.domain.fleet import Deployment
from fitment.core.deployment import Outcome
from tests.scenarios.test_rollout import NOW, RUNNING, device, ended

TEN = tuple(device(f"d{number}") for number in range(10))


def view(*rows: Deployment, retried: tuple[str, ...]) -> rules.View:
    made = replace(RUNNING, waves=(0.2, 1.0), retried=retried)
    return rules.View(
        rollout=made, targets=TEN, deployments={d.device: d for d in rows}, now=NOW + 1.0
    )


@pytest.mark.parametrize("failed", ["d0", "d1"])
def test_another_turn_opens_no_place_for_anybody_else(failed: str) -> None:
    rows = [
        ended(name, Outcome.ROLLED_BACK if name == failed else Outcome.COMMITTED)
        for name in ("d0", "d1")
    ]
    seen = view(*rows, retried=(f"d-{failed}",))
    assert [a.device for a in rules.admissions(seen)] == [failed]
    assert rules.exposure(seen).admitted == 2, "the release has reached both"
    assert rules.exposure(seen).bound == 2


def test_where_the_share_has_room_others_come_too() -> None:
    seen = view(ended("d5", Outcome.ROLLED_BACK), retried=("d-d5",))
    assert [a.device for a in rules.admissions(seen)] == ["d5", "d0"]
    away = replace(TEN[5], online=False)
    seen = replace(seen, targets=(*TEN[:5], away, *TEN[6:]))
    assert [a.device for a in rules.admissions(seen)] == ["d0"], "its place stays its own"
