"""What runs on a device can be built again, byte for byte, or the reason is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.artifacts.packing import pack_into
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile.rolling import RolloutPlan
from fitment.core import digest
from fitment.core.deployment import CalibrationMode, CalibrationReport, RungReport
from fitment.core.patch import InputCorrection, Overlay, Write, overlay_id
from tests.integration.trust_server import make_bundle

PRISTINE = b"weights of a model"
WRITES = (Write(offset=0, data=b"W"),)
OVERLAY = Overlay(
    id=digest.digest_of(list(WRITES)), artifact_sha256=digest.digest_bytes(PRISTINE), writes=WRITES
)


@pytest.fixture
def committed(world: Any, tmp_path: Path) -> Any:
    """Device ``a`` runs a variant whose transport file is a real one."""
    world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.runs("a"))
    packed = pack_into(make_bundle(tmp_path / "bundle", content=PRISTINE), world.blobs, tmp_path)
    (job,) = world.store.jobs.find()
    real = tuple(replace(v, bundle=replace(v.bundle, archive=packed.archive)) for v in job.variants)
    world.store.jobs.put(replace(job, variants=real))
    return world


def calibrate(world: Any, *, overlay: bytes, identity: str = OVERLAY.id) -> None:
    (deployment,) = world.store.deployments.find(device="a")
    report = CalibrationReport(
        id=identity, mode=CalibrationMode.MOMENTS, applied=True, reason="darker"
    )
    if overlay:
        world.controller.on_calibration("a", deployment.id, report, overlay)
    slots = world.devices["a"].slots
    slots["m"] = replace(slots["m"], calibration=identity)
    world.devices["a"].report()


def test_a_pristine_variant_is_the_bundles_own_file(committed: Any) -> None:
    running = committed.controller.pull("a")
    assert running.data == PRISTINE
    assert running.sha256 == digest.digest_bytes(PRISTINE)
    assert (running.slot, running.file_name, running.calibration) == ("m", "int8.onnx", "")


def test_a_calibrated_one_has_the_overlay_in_it(committed: Any) -> None:
    calibrate(committed, overlay=digest.canonical(OVERLAY))
    running = committed.controller.pull("a", "m")
    assert running.data == b"W" + PRISTINE[1:]
    assert running.calibration == OVERLAY.id


def test_a_correction_of_the_inputs_stands_beside_the_pristine_file(committed: Any) -> None:
    correction = InputCorrection(tensor="x", gain=0.1, offset=0.02)
    made = Overlay(
        id=overlay_id((), correction), artifact_sha256=OVERLAY.artifact_sha256, writes=(),
        input=correction,
    )  # fmt: skip
    calibrate(committed, overlay=digest.canonical(made), identity=made.id)
    running = committed.controller.pull("a")
    assert (running.data, running.input, running.calibration) == (PRISTINE, correction, made.id)


def test_a_rung_that_serves_is_what_runs_and_has_no_overlay(committed: Any) -> None:
    calibrate(committed, overlay=digest.canonical(OVERLAY))
    (job,) = committed.store.jobs.find()
    lesser = next(v for v in job.variants if v.name == "tiny").bundle.variant
    slots = committed.devices["a"].slots
    rung = RungReport(rung=1, variant=lesser, name="tiny", ready=True)
    slots["m"] = replace(slots["m"], ladder=(rung,), rung=1)
    committed.devices["a"].report()
    running = committed.controller.pull("a")
    assert (running.variant, running.calibration, running.data) == (lesser, "", PRISTINE)


def test_an_overlay_that_was_not_handed_over_is_not_guessed(committed: Any) -> None:
    calibrate(committed, overlay=b"")
    with pytest.raises(Conflict, match="not handed over yet"):
        committed.controller.pull("a")


@pytest.mark.parametrize(
    ("device", "slot", "words"),
    [("nobody", "", "no device 'nobody'"), ("a", "other", "nothing in slot 'other'")],
)
def test_what_is_not_there_is_named(committed: Any, device: str, slot: str, words: str) -> None:
    with pytest.raises(NotFound, match=words):
        committed.controller.pull(device, slot)


def test_a_variant_of_another_controller_cannot_be_built(committed: Any) -> None:
    slots = committed.devices["a"].slots
    slots["m"] = replace(slots["m"], variant="sha256:" + "0" * 64)
    committed.devices["a"].report()
    with pytest.raises(Conflict, match="no fit of this controller made"):
        committed.controller.pull("a")


def test_two_slots_must_be_told_apart(committed: Any) -> None:
    slots = committed.devices["a"].slots
    slots["n"] = replace(slots["m"], slot="n")
    committed.devices["a"].report()
    with pytest.raises(Conflict, match="--slot: m, n"):
        committed.controller.pull("a")


def test_a_damaged_transport_file_is_refused(committed: Any) -> None:
    (job,) = committed.store.jobs.find()
    digest_of_rubbish = committed.blobs.put_bytes(b"rubbish")
    bad = tuple(
        replace(v, bundle=replace(v.bundle, archive=digest_of_rubbish)) for v in job.variants
    )
    committed.store.jobs.put(replace(job, variants=bad))
    with pytest.raises(UserError, match="no transport file"):
        committed.controller.pull("a")
