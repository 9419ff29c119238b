"""The steps of the demo, in order: each does what a user would do, and waits for its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from controller import examples
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.packing import read_artifact
from controller.catalog import process
from controller.client import Client
from controller.demo import checks, shifted
from controller.demo.fleet import (
    CHANGED,
    FLEET,
    INTEGER_FUSION,
    SAMPLES,
    WORKLOAD,
    DeviceSpec,
    agent_config,
)
from controller.demo.processes import DemoFailed, memory_bytes
from controller.demo.stage import Stage, addresses
from controller.domain import fleet, pulled
from controller.domain.fleet import JobStatus, RolloutState

EXAMPLE = Path(examples.__path__[0]) / WORKLOAD
_ENDED = frozenset({JobStatus.DONE, JobStatus.FAILED})
_STOPPED = frozenset({RolloutState.HALTED, RolloutState.CANCELLED, RolloutState.REVERTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step; ``run`` gives a line about what came of it."""

    name: str
    title: str
    run: Callable[[Stage], str]


def serve(stage: Stage) -> str:
    """Start a controller with a data directory of its own."""
    stage.crew.start("controller", ["controller", "serve"])
    where = stage.wait("the controller's start", lambda: addresses(stage.folders))
    token = (stage.folders.controller / "operator.token").read_text().strip()
    stage.client = Client(where["rest"], token)
    stage.link = where["link"]
    return f"{stage.api.status().link}; it approves releases by itself here"


def enrol(stage: Stage) -> str:
    """Enrol each device with a token of its own, start its agent, and see its profile."""
    where = addresses(stage.folders) or {}
    for spec in FLEET:
        stage.say(f"{spec.name} enrols")
        _settle_in(stage, spec)
        token = stage.api.create_token(600.0).text
        folder = str(stage.folders.device(spec))
        stage.crew.call(
            f"fitment-agent enroll ({spec.name})",
            ["-m", "agent", "enroll", "--controller", where["enroll"], "--token", token,
             "--device", spec.name, "--data-dir", folder],
        )  # fmt: skip
        stage.crew.start(spec.name, ["agent", "run", "--data-dir", folder])
    for spec in FLEET:
        stage.say(f"{spec.name} says what it is")
        found = stage.wait(f"a profile for {spec.name}", partial(_profiled, stage, spec))
        checks.hold(found.profile == spec.profile, f"{spec.name} was matched to {found.profile}")
    return ", ".join(f"{spec.name} is {spec.profile}" for spec in FLEET)


def _settle_in(stage: Stage, spec: DeviceSpec) -> None:
    """Write the device's settings, and what its sensor saw."""
    folder = stage.folders.device(spec)
    folder.mkdir(parents=True)
    samples = None
    if spec.gain is not None:
        samples = stage.folders.samples(spec)
        stage.crew.call(
            "sensor.py",
            [str(EXAMPLE / "sensor.py"), "--folder", str(samples), "--count", str(SAMPLES),
             "--gain", str(spec.gain)],
        )  # fmt: skip
    (folder / "config.toml").write_text(agent_config(spec, samples=samples))


def _profiled(stage: Stage, spec: DeviceSpec) -> fleet.Device | None:
    found = stage.device(spec)
    return found if found.profile else None


def register(stage: Stage) -> str:
    """Register the example: a snapshot, checked in a worker process."""
    stage.model = stage.api.register_model(str(EXAMPLE / "workload.py"))
    return f"{stage.model.name} {stage.model.version}"


def fit(stage: Stage) -> str:
    """Fit the model to each device's cohort, one after another so that timings are quiet."""
    words = []
    for spec in FLEET:
        (job,) = stage.api.start_fits(WORKLOAD, device=spec.name)
        job = stage.wait(f"the fit for {spec.name}", partial(_fitted, stage, job, spec))
        stage.jobs[spec.name] = job
        words.append(f"{spec.profile}: {chosen(job).name}")
    return ", ".join(words)


def _fitted(stage: Stage, job: fleet.FitJob, spec: DeviceSpec) -> fleet.FitJob | None:
    found = stage.api.fit(job.id)
    stage.say(f"{spec.profile}: {found.step or found.status.value}")
    if found.status is JobStatus.FAILED:
        raise DemoFailed(f"the fit for {spec.name} failed: {found.error}")
    return found if found.status in _ENDED else None


def chosen(job: fleet.FitJob) -> fleet.Variant:
    """The variant that a fit chose.

    Raises:
        DemoFailed: none; with the reason.
    """
    wanted = job.choice.chosen if job.choice is not None else ""
    for variant in job.variants:
        if variant.bundle.variant == wanted:
            return variant
    raise DemoFailed(f"no variant was chosen: {job.choice.reason if job.choice else job.error}")


def release(stage: Stage) -> str:
    """Release what was chosen, signed; and send it to the fleet."""
    made = stage.api.create_release(WORKLOAD)
    checks.hold(made.approved_at > 0, "the release was not signed")
    stage.rollout = stage.api.create_rollout(made.id).rollout.id
    return f"release {made.id}, counter {made.counter}"


def roll_out(stage: Stage) -> str:
    """Wait until every device has fetched, verified, timed and committed its variant."""
    view = stage.wait("the end of the rollout", lambda: _completed(stage, stage.rollout))
    stage.deployments = {d.device: d for d in view}
    checks.rolled_out(stage.deployments)
    stage.running = _pull(stage, FLEET)
    order = sorted(stage.deployments.values(), key=lambda d: d.created_at)
    return "wave by wave: " + ", then ".join(d.device for d in order)


def _completed(stage: Stage, rollout: str) -> tuple[fleet.Deployment, ...] | None:
    view = stage.api.rollout(rollout)
    under_way = [d for d in view.deployments if d.outcome is None]
    stage.say("; ".join(f"{d.device} is {d.state.value}" for d in under_way) or "next wave")
    if view.rollout.state in _STOPPED:
        why = view.rollout.reasons[-1] if view.rollout.reasons else ""
        raise DemoFailed(f"the rollout is {view.rollout.state.value}: {why}")
    return view.deployments if view.rollout.state is RolloutState.COMPLETED else None


def _pull(stage: Stage, specs: Iterable[DeviceSpec]) -> dict[str, pulled.RunningModel]:
    """Model files as the devices run them, also on disk for who wants to look."""
    found = {}
    stage.folders.models.mkdir(exist_ok=True)
    for spec in specs:
        stage.wait(f"{spec.name}'s report", partial(_handed_over, stage, spec))
        running = found[spec.name] = stage.api.pull(spec.name)
        (stage.folders.models / f"{spec.name}-{running.file_name}").write_bytes(running.data)
    return found


def _handed_over(stage: Stage, spec: DeviceSpec) -> bool:
    """Whether the report of the device is that of its last deployment, and its overlay is here."""
    device = stage.device(spec)
    slots = device.reported.slots if device.reported is not None else ()
    newest = stage.newest(spec)
    slot = next((s for s in slots if s.variant == newest.variant), None)
    if slot is None or not slot.calibration:
        return slot is not None
    every = stage.api.rollout(newest.rollout).deployments
    return any(d.id == newest.id and d.overlay for d in every)


def compare_sensor(stage: Stage) -> str:
    """How well the calibrated variants do on what their sensors see, as shipped and calibrated."""
    words = []
    for spec in FLEET:
        if spec.gain is None:
            continue
        running = stage.running[spec.name]
        checks.calibrated(stage.deployments[spec.name], running)
        folder = stage.folders.out / "shifted" / spec.name
        job = _shifted_job(stage, spec, running, folder)
        found: shifted.ShiftedAccuracy = process.run(
            "controller.demo.shifted", folder, job, shifted.ShiftedAccuracy,
            report=lambda step, _done: stage.say(step),
        )  # fmt: skip
        stage.shifted[spec.name] = found
        checks.calibration_helps(found)
        words.append(
            f"{spec.name}, gain {found.gain:g}: {100 * found.as_shipped:.2f} % as shipped,"
            f" {100 * found.calibrated:.2f} % calibrated"
        )
    return "; ".join(words)


def _shifted_job(
    stage: Stage, spec: DeviceSpec, running: pulled.RunningModel, folder: Path
) -> shifted.ShiftedJob:
    folder.mkdir(parents=True)
    bundle = chosen(stage.jobs[spec.name]).bundle
    with FolderBlobs(stage.folders.controller / "blobs").open(bundle.archive) as archive:
        manifest, pristine = read_artifact(archive)
    shipped, calibrated = folder / "shipped", folder / "calibrated"
    shipped.write_bytes(pristine)
    calibrated.write_bytes(running.data)
    return shifted.ShiftedJob(
        gain=spec.gain or 1.0, shipped=str(shipped), calibrated=str(calibrated),
        runtime=manifest.runtime, input=running.input,
    )  # fmt: skip


def change(stage: Stage) -> str:
    """Switch the integer fusions of one device's runtime off: its int8 kernels get slow."""
    config = stage.folders.device(CHANGED) / "config.toml"
    began = time.monotonic()
    config.write_text(agent_config(CHANGED, disabled_optimizers=(INTEGER_FUSION,)))
    opened = stage.wait("a trigger", lambda: _trigger(stage))
    stage.say(opened.reason)
    trigger = stage.wait("the end of the trigger", lambda: _closed(stage, opened))
    stage.change_s = time.monotonic() - began
    stage.trigger = trigger
    if not trigger.rollout:
        raise DemoFailed(f"nothing was rolled out for the change: {trigger.result}")
    stage.later_jobs[CHANGED.name] = stage.api.fit(trigger.job)
    stage.after = {d.device: d for d in stage.api.rollout(trigger.rollout).deployments}
    checks.changed(trigger, stage.after, stage.deployments)
    stage.running_after = _pull(stage, [CHANGED])
    return trigger.reason


def _trigger(stage: Stage) -> fleet.Trigger | None:
    return next((t for t in stage.api.triggers() if t.device == CHANGED.name), None)


def _closed(stage: Stage, opened: fleet.Trigger) -> fleet.Trigger | None:
    found = next(t for t in stage.api.triggers() if t.id == opened.id)
    if found.rollout:
        stage.say(f"{CHANGED.name} gets its new variant")
    elif found.job:
        job = stage.api.fit(found.job)
        stage.say(f"fits again: {job.step or job.status.value}")
    return found if found.closed_at else None


def look_around(stage: Stage) -> str:
    """Whether all serve what they committed, and how much memory their supervisors take."""
    for spec in FLEET:
        newest = stage.newest(spec)
        stage.wait(f"{spec.name}'s report", partial(_serves, stage, spec, newest))
        stage.memory[spec.name] = memory_bytes(stage.crew.programs[spec.name].process.pid)
    largest = max((m["pss"] for m in stage.memory.values() if m), default=0)
    return f"supervisors take at most {largest / 2**20:.1f} MiB each (PSS)"


def _serves(stage: Stage, spec: DeviceSpec, newest: fleet.Deployment) -> bool:
    device = stage.device(spec)
    slots = device.reported.slots if device.reported is not None else ()
    return any(s.variant == newest.variant and s.golden_ok for s in slots)


STEPS = (
    Step(name="serve", title="Start the controller", run=serve),
    Step(name="enrol", title="Enrol three devices", run=enrol),
    Step(name="register", title=f"Register {WORKLOAD}", run=register),
    Step(name="fit", title="Fit it to each kind of device", run=fit),
    Step(name="release", title="Sign a release", run=release),
    Step(name="rollout", title="Roll it out, canary first", run=roll_out),
    Step(name="calibration", title="Compare on the darker camera", run=compare_sensor),
    Step(name="change", title=f"Change {CHANGED.name}'s runtime, and wait", run=change),
    Step(name="look", title="Look around", run=look_around),
)
"""In order; each needs the ones before it."""
