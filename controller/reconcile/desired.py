"""What each device is asked for: signed orders for what has not ended yet.

The generation rises when, and only when, the content changes; SQL is the truth, so the same
desired state is published again whenever a device comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from controller.domain import fleet, plan, studies
from controller.domain.judgement import TooFew
from controller.reconcile import releasing
from controller.reconcile.context import Context
from controller.reconcile.looking import Looks
from fitment.core.deployment import (
    UNDERSTANDS_INPUT,
    UNDERSTANDS_STACKS,
    Assignment,
    BenchmarkPlan,
    BundleRef,
    CalibrationMode,
    CalibrationPlan,
    DesiredState,
    DeviceGates,
    Lesser,
    ShadowPlan,
    Study,
    StudyKind,
)
from fitment.core.link import Downlink

STUDY_PLAN = BenchmarkPlan(min_runs=200, min_seconds=0.5, max_seconds=4.0, warmup_max_seconds=1.5)
PROBE_PLAN = replace(STUDY_PLAN, min_seconds=0.05)  # for each of its tiny graphs
LEAST_JITTER_S = 1.0
RECONNECTS_PER_S = 200.0
"""Half of what one core of a broker does in TLS handshakes (1.3 to 2 ms each, measured)."""
DEPLOY_PLAN = BenchmarkPlan(min_runs=300, min_seconds=0.8, max_seconds=8.0, warmup_max_seconds=2.0)


def publish(context: Context, name: str, *, again: bool = False) -> None:
    """Bring one device's desired state up to date and send it when it changed."""
    publish_to(context, (name,), again={name} if again else frozenset())


def publish_to(
    context: Context, names: Iterable[str], *, again: AbstractSet[str] = frozenset(),
    lazily: bool = False,
) -> None:  # fmt: skip
    """`publish` for several devices; what is sent was stored before.

    ``again``: devices that are told in any case. ``lazily``: a device that was never asked for
    anything is not told that it still is not.
    """
    sent: list[tuple[str, Downlink]] = []
    with context.store.transaction():
        context.must_act()  # before it is stored that something was sent
        jitter_s = _jitter_s(context)
        for name in names:
            device = context.store.devices.get(name)
            if device is None or device.revoked:
                continue
            deployments = context.store.deployments.find(device=name, outcome=None)
            studies = context.store.studies.find(device=name, done_at=0.0)
            if lazily and not (deployments or studies or device.desired_key):
                continue
            wish = plan.wish(device, deployments, studies)
            if wish.changed or name in again:
                sent.append((name, _desired(context, device, wish, jitter_s)))
    for name, downlink in sent:
        context.publish(name, downlink)


def publish_all(context: Context, looks: Looks) -> None:
    """`publish` for every device of which something was written since the last tick.

    The others need no look: what they are asked for follows from their records.
    """
    looks.read()
    names = sorted(looks.asked)
    if not names:
        return
    publish_to(context, names, lazily=True)
    looks.asked.difference_update(names)  # only now: what failed is asked for again


def _desired(context: Context, device: fleet.Device, wish: plan.Wish, jitter_s: float) -> Downlink:
    """What is sent; the device's record says that it was asked for."""
    if wish.changed:
        device = replace(device, generation=wish.generation, desired_key=wish.key)
        context.store.devices.put(device)
    sign = context.trust.director.sign
    orders = [_assignment(context, device, d) for d in wish.deployments]
    desired = DesiredState(
        generation=wish.generation,
        assignments=tuple(sign(order) for order in orders if order is not None),
        studies=tuple(sign(_study(s)) for s in wish.studies),
        telemetry_interval_s=context.settings.telemetry_interval_s,
        reconnect_jitter_s=jitter_s,
    )
    return Downlink(desired=desired)


def _jitter_s(context: Context) -> float:
    """Over how long a fleet that lost its broker comes back: a broker shakes hands one by one.

    The place of the newest device tells how many there are, without counting them.
    """
    newest = context.store.devices.page(1, newest=True)
    return max(LEAST_JITTER_S, newest[0][0] / RECONNECTS_PER_S if newest else 0.0)


def _assignment(
    context: Context, device: fleet.Device, deployment: fleet.Deployment
) -> Assignment | None:
    release = context.store.releases.get(deployment.release)
    rollout = context.store.rollouts.get(deployment.rollout)
    bundle = find_bundle(context, release.model, deployment.variant) if release else None
    if release is None or rollout is None or bundle is None:
        return None
    if rollout.windows and not deployment.windows:
        return None  # without windows the order would say: at any time
    cohort = deployment.cohort or device.cohort
    keys = [cohort.key if cohort else "", device.profile]
    gates = next((release.gates[k] for k in keys if k in release.gates), DeviceGates())
    calibration = next((release.calibration[k] for k in keys if k in release.calibration), None)
    profile = next((p for p in context.profiles if p.name == device.profile), None)
    return Assignment(
        device=device.name, deployment=deployment.id, rollout=rollout.id, release=release.id,
        release_target=f"releases/{release.id}.json", slot=release.slot, counter=release.counter,
        bundle=bundle, gates=gates, benchmark=DEPLOY_PLAN, deadline_s=rollout.deadline_s,
        calibration=_understood(device, calibration or CalibrationPlan()),
        windows=deployment.windows,
        ladder=_ladder(
            context, release, _heeded(device, releasing.ladder_of(release, device, deployment))
        ),
        throttle_c=profile.throttle_c if profile else None, metered=rollout.metered,
        shadow=_shadow(rollout.gate),
    )  # fmt: skip


def _shadow(gate: fleet.Gate) -> ShadowPlan | None:
    """What the gate asks of agreement, and of too few, holds in the shadow as well."""
    if not gate.shadow_s:
        return None
    return ShadowPlan(
        seconds=gate.shadow_s, inputs=gate.shadow_inputs,
        agreement_min=gate.agreement_min,
        needed=gate.too_few is TooFew.ASK,
    )  # fmt: skip


def _understood(device: fleet.Device, plan: CalibrationPlan) -> CalibrationPlan:
    """The plan, or moments where the agent is older than the correction of inputs."""
    said = device.reported.understands if device.reported is not None else ()
    if plan.mode is not CalibrationMode.INPUT or UNDERSTANDS_INPUT in said:
        return plan
    return replace(plan, mode=CalibrationMode.MOMENTS)


def _heeded(device: fleet.Device, rungs: tuple[fleet.Rung, ...]) -> tuple[fleet.Rung, ...]:
    """Without those for other stacks where the agent would not know that they are."""
    said = device.reported.understands if device.reported is not None else ()
    return tuple(r for r in rungs if not r.stacks or UNDERSTANDS_STACKS in said)


def _ladder(
    context: Context, release: fleet.Release, rungs: tuple[fleet.Rung, ...]
) -> tuple[Lesser, ...]:
    found = [(rung, find_bundle(context, release.model, rung.variant)) for rung in rungs]
    return tuple(
        Lesser(
            bundle=ref,
            relieves=rung.relieves,
            portable=rung.portable,
            reason=rung.reason,
            stacks=rung.stacks,
            coverage_min=rung.coverage_min,
        )
        for rung, ref in found
        if ref is not None
    )


def find_bundle(context: Context, model: str, variant: str) -> BundleRef | None:
    """The bundle of a variant, from the fits of its model version, else from any fit.

    A release that goes back may hold variants of more than one version.
    """
    for jobs in (context.store.jobs.find(model=model), context.store.jobs.find()):
        for job in jobs:
            for candidate in job.variants:
                if candidate.bundle.variant == variant:
                    return candidate.bundle
    return None


def _study(record: studies.StudyRecord) -> Study:
    probe = record.kind is StudyKind.PROBE
    return Study(
        id=record.id, kind=record.kind, device=record.device, bundle=record.bundle,
        benchmark=PROBE_PLAN if probe else STUDY_PLAN,
    )  # fmt: skip
