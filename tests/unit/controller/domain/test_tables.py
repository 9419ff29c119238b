"""Tables cover what they must, and changes of a device are named."""

from __future__ import annotations

import typing
from dataclasses import replace

import pytest

from controller.domain import rollout, transitions, triggers
from controller.domain.fleet import JobStatus, RolloutState, TriggerKind
from controller.errors import Conflict
from controller.reconcile import fitting, rolling
from fitment.core.fingerprint import Facet, Fingerprint

PLAIN = Fingerprint(
    chassis=Facet.of({"board": "x"}), hardware=Facet.of({"cpu": "a76"}),
    stack=Facet.of({"runtime.onnx": "1.31"}), condition=Facet.of({"governor": "performance"}),
)  # fmt: skip


def test_every_state_has_its_row() -> None:
    assert set(transitions.ROLLOUT) == set(RolloutState)
    assert set(transitions.JOB) == set(JobStatus)


def test_every_step_has_its_executor() -> None:
    assert set(rolling.EXECUTORS) == set(typing.get_args(rollout.Step))


def test_every_unfinished_job_has_its_step() -> None:
    unfinished = {s for s, following in transitions.JOB.items() if following}
    assert set(fitting.STEPS) == unfinished


def test_a_step_off_the_table_is_refused() -> None:
    with pytest.raises(Conflict, match="the rollout is completed; it cannot become paused"):
        transitions.check_rollout(RolloutState.COMPLETED, RolloutState.PAUSED)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"hardware": Facet.of({"cpu": "a78"})}, TriggerKind.HARDWARE_CHANGED, "'a76' → 'a78'"),
        (
            {"stack": Facet.of({"runtime.onnx": "1.32"})},
            TriggerKind.STACK_CHANGED,
            "stack changed: runtime.onnx '1.31' → '1.32'",
        ),
        (
            {"stack": Facet.of({"runtime.onnx": "1.31", "driver": "2"})},
            TriggerKind.STACK_CHANGED,
            "driver absent → '2'",
        ),
        ({"chassis": Facet.of({"board": "y"})}, None, ""),
        ({"condition": Facet.of({"governor": "powersave"})}, None, ""),
    ],
)
def test_changes_are_named(change: dict[str, Facet], kind: TriggerKind | None, words: str) -> None:
    found = triggers.changed(PLAIN, replace(PLAIN, **change))
    if kind is None:
        assert found is None
    else:
        assert found is not None
        assert found.kind is kind
        assert words in found.reason
