"""What every runtime adapter keeps: one suite for onnxruntime, LiteRT and the in-memory twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.jobs import RuntimeOptions
from agent.workers import goldens, inputs, installed, overlay
from agent.workers.child import JobError
from agent.workers.runtimes import registry
from agent.workers.runtimes.base import Session
from fitment.core import digest
from fitment.core.bundle import IoSpec, TensorSpec
from fitment.core.patch import InputCorrection
from tests.integration import worker_models as models
from tests.integration.worker_models import Affine

_MODELS = models.affine_models()
_OPTIONS = RuntimeOptions()


@pytest.fixture(params=_MODELS, ids=lambda model: f"{model.runtime}-{model.name}")
def model(request: pytest.FixtureRequest) -> Affine:
    return request.param


@pytest.fixture
def session(model: Affine) -> Session:
    return registry.get(model.runtime).load(model.data, _OPTIONS)


def test_real_values_go_in_and_come_out(model: Affine, session: Session) -> None:
    inputs = models.affine_inputs()
    outputs = installed.answers(session, inputs)
    assert outputs.dtype == np.float32
    assert outputs.shape == (16, 3)
    assert np.abs(outputs - models.affine(inputs)).max() < model.tolerance


def test_raw_takes_what_prepare_made_and_says_the_same(session: Session) -> None:
    inputs = models.affine_inputs(session.inputs[0].batch)
    feeds = session.prepare([inputs])
    assert [feed.dtype.name for feed in feeds] == [tensor.dtype for tensor in session.inputs]
    (raw,) = session.raw(feeds)
    assert raw.dtype.name == session.outputs[0].dtype
    (real,) = session.run([inputs])
    tensor = session.outputs[0]
    expected = (
        raw if tensor.scale is None else (raw.astype(float) - tensor.zero_point) * tensor.scale
    )
    assert np.allclose(real, expected)


def test_raw_does_not_hand_out_memory_that_the_next_run_overwrites(session: Session) -> None:
    inputs = models.affine_inputs(2)
    (first,) = session.raw(session.prepare([inputs[:1]]))
    kept = first.copy()
    session.raw(session.prepare([inputs[1:]]))
    assert np.array_equal(first, kept)


def test_values_beyond_the_range_are_clipped(session: Session) -> None:
    (feed,) = session.prepare([np.full((1, 4), 1e6, dtype=np.float32)])
    if feed.dtype.kind == "i":
        assert (feed == np.iinfo(feed.dtype).max).all()


def test_integer_coverage(model: Affine, session: Session) -> None:
    assert session.integer_coverage() == model.coverage


def test_a_path_and_its_bytes_are_the_same_model(
    model: Affine, session: Session, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{model.format}"
    path.write_bytes(model.data)
    from_path = registry.get(model.runtime).load(path, _OPTIONS)
    inputs = models.affine_inputs(1)
    assert np.array_equal(from_path.run([inputs])[0], session.run([inputs])[0])


def test_a_damaged_file_is_refused_for_good(model: Affine) -> None:
    with pytest.raises(JobError, match="cannot load the model") as caught:
        registry.get(model.runtime).load(b"\x00 not a model", _OPTIONS)
    assert caught.value.code == "load_failed"
    assert caught.value.permanent


def test_a_wrong_shape_is_refused(session: Session) -> None:
    with pytest.raises(JobError, match="shape") as caught:
        session.run([np.zeros((1, 5), dtype=np.float32)])
    assert caught.value.code == "input_mismatch"


def test_the_version_is_told(model: Affine, session: Session) -> None:
    assert session.version == registry.get(model.runtime).version
    assert session.version[0].isdigit()


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(JobError, match="onnx, litert, memory"):
        registry.get("abacus")


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError("No module named 'onnxruntime'")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(JobError, match=r"pip install 'fitment\[onnx\]'") as caught:
        registry.get("onnx")
    assert (caught.value.code, caught.value.permanent) == ("runtime_missing", True)


def test_onnx_takes_scales_from_the_bundle_where_the_file_has_none() -> None:
    spec = TensorSpec(name="x", dtype="int8", shape=(-1, 4), scale=0.5, zero_point=1)
    io = IoSpec(inputs=(spec,), outputs=())
    session = registry.get("onnx").load(models.onnx_int8_io(), _OPTIONS, io=io)
    (feed,) = session.prepare([np.array([[0.0, 1.0, -1.0, 100.0]], dtype=np.float32)])
    assert feed.tolist() == [[1, 3, -1, 127]]


def test_onnx_honours_disabled_optimizers() -> None:
    """Without the Q/DQ transformers the convolution stays in float, and coverage tells."""
    data, _ = models.network_u8s8(models.pictures(32, seed=3))
    plain = registry.get("onnx").load(data, _OPTIONS)
    assert plain.integer_coverage() == 0.5  # the convolution; the head is left in float
    options = RuntimeOptions(disabled_optimizers=("QDQSelectorActionTransformer",))
    crippled = registry.get("onnx").load(data, options)
    assert crippled.integer_coverage() == 0.0


# --- behind a correction of the inputs -----------------------------------------------------------

_UNDO = InputCorrection(tensor="x", gain=0.25, offset=0.5)


@pytest.fixture
def shifted(model: Affine, session: Session, tmp_path: Path) -> installed.Loaded:
    """A bundle of each runtime, with an overlay that undoes a shift of its sensor."""
    models.affine_bundle(tmp_path / "bundle", model, tolerance=model.tolerance)
    undo = replace(_UNDO, tensor=session.inputs[0].name)
    made = overlay.make(digest.digest_bytes(model.data), correction=undo)
    overlay.save(tmp_path / "overlay.json", made)
    bundle = installed.read(tmp_path / "bundle")
    return installed.load(bundle, _OPTIONS, overlay=str(tmp_path / "overlay.json"))


def test_what_the_sensor_did_is_undone_in_every_runtime(
    model: Affine, shifted: installed.Loaded
) -> None:
    usual = models.affine_inputs()
    outputs = installed.answers(shifted.session, inputs.seen(_UNDO, usual))
    assert np.abs(outputs - models.affine(usual)).max() < model.tolerance
    as_shipped = installed.answers(
        registry.get(model.runtime).load(model.data, _OPTIONS), inputs.seen(_UNDO, usual)
    )
    assert np.abs(as_shipped - models.affine(usual)).max() > 2 * model.tolerance


def test_the_correction_is_within_what_is_timed(shifted: installed.Loaded) -> None:
    session = shifted.session
    batch = session.inputs[0].batch
    (feed,) = session.prepare([models.affine_inputs(batch)])
    before = feed.copy()
    (raw,) = session.raw([feed])
    tensor = session.outputs[0]
    real = raw if tensor.scale is None else (raw.astype(float) - tensor.zero_point) * tensor.scale
    assert np.allclose(session.run([models.affine_inputs(batch)])[0], real, atol=1e-6)
    assert np.array_equal(feed, before)


def test_goldens_hold_behind_a_correction_and_fail_where_it_is_not_undone(
    shifted: installed.Loaded,
) -> None:
    known = installed.goldens(shifted.bundle)
    assert goldens.evaluate_pristine(shifted, known, _OPTIONS).golden_ok
    lying = replace(shifted, correction=replace(_UNDO, tensor="x", gain=0.5))
    answer = goldens.evaluate_pristine(lying, known, _OPTIONS)
    assert not answer.golden_ok
    assert "not what is done to its inputs" in answer.reason
