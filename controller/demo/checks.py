"""What must have held for the demo to be a success; each says in words what did not."""

from __future__ import annotations

from collections.abc import Mapping

from controller.demo.fleet import CHANGED, FLEET, INTEGER_FUSION
from controller.demo.processes import DemoFailed
from controller.demo.shifted import ShiftedAccuracy
from controller.domain import fleet, pulled
from fitment.core.deployment import Outcome


def hold(condition: bool, words: str) -> None:
    """Go on only if ``condition`` holds.

    Raises:
        DemoFailed: it does not.
    """
    if not condition:
        raise DemoFailed(words)


def rolled_out(deployments: Mapping[str, fleet.Deployment]) -> None:
    """Every device committed and measured, the canary before all others."""
    for spec in FLEET:
        found = deployments.get(spec.name)
        hold(found is not None, f"{spec.name} got no deployment")
        if found is not None:
            why = "; ".join(found.reasons)
            hold(found.outcome is Outcome.COMMITTED, f"{spec.name} did not commit: {why}")
            measured = found.measurement
            hold(measured is not None, f"{spec.name} committed without a measurement")
    first, *others = sorted(deployments.values(), key=lambda d: d.created_at)
    alone = all(d.created_at >= first.ended_at for d in others)
    hold(first.wave == 0 and alone, f"{first.device} was the canary, but was not alone")


def calibrated(deployment: fleet.Deployment, running: pulled.RunningModel) -> None:
    """The device calibrated, and what it runs is what it handed over."""
    report = deployment.calibration
    why = report.reason if report is not None else "its release did not ask for it"
    hold(report is not None and report.applied, f"{deployment.device} did not calibrate: {why}")
    if report is not None:
        same = running.calibration == report.id
        hold(same, f"{deployment.device} runs another calibration than it reported")


def calibration_helps(found: ShiftedAccuracy) -> None:
    """On the pictures of its own sensor the calibrated variant is the better one."""
    hold(
        found.calibrated > found.as_shipped,
        f"calibrated, {100 * found.calibrated:.2f} % of the darker images are right;"
        f" as shipped {100 * found.as_shipped:.2f} %",
    )


def changed(
    trigger: fleet.Trigger,
    after: Mapping[str, fleet.Deployment],
    before: Mapping[str, fleet.Deployment],
) -> None:
    """The change was seen, said, and answered on that device alone, with another variant."""
    hold(INTEGER_FUSION in trigger.reason, f"the trigger's reason is another: {trigger.reason}")
    hold(list(after) == [CHANGED.name], f"the answer went to {', '.join(after) or 'nobody'}")
    answer = after[CHANGED.name]
    why = "; ".join(answer.reasons)
    hold(answer.outcome is Outcome.COMMITTED, f"{CHANGED.name} did not commit: {why}")
    hold(
        answer.variant != before[CHANGED.name].variant,
        f"{CHANGED.name} committed the same variant again",
    )
