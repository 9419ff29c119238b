from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.artifacts import packing
from controller.compress import bundle, calibration
from controller.compress.bundle import BundleRequest
from controller.errors import FitError
from fitment.core import digest, plain
from fitment.core.bundle import BundleManifest, IoSpec, TensorSpec
from fitment.core.histogram import Histogram
from fitment.core.patch import PatchManifest

IO = IoSpec(
    inputs=(TensorSpec(name="input", dtype="float32", shape=(-1, 1, 4, 4)),),
    outputs=(TensorSpec(name="output", dtype="float32", shape=(-1, 3)),),
)


def request(**changes: Any) -> BundleRequest:
    random = np.random.default_rng(0)
    asked = BundleRequest(
        name="int8-u8s8",
        model="toy",
        version="1.0.0",
        format="onnx",
        runtime="onnx",
        scheme="u8s8",
        artifact=b"the runtime file",
        io=IO,
        golden_inputs=random.integers(0, 256, (40, 1, 4, 4), np.uint8),
        golden_outputs=random.random((40, 3), np.float32),
        golden_reference=random.random((40, 3), np.float32),
        inputs_scale=1 / 255,
        tolerance=0.1,
        labels=("a", "b", "c"),
        lineage={"source": "sha256:0"},
    )
    return replace(asked, **changes)


def test_a_bundle_lists_what_it_holds(tmp_path: Path) -> None:
    built = bundle.build(request(), tmp_path)
    content = (built.folder / "bundle.json").read_bytes()
    manifest = plain.from_plain(BundleManifest, json.loads(content))
    assert manifest == built.manifest
    assert built.ref.variant == digest.digest_bytes(content)
    assert built.ref.archive == digest.digest_bytes(built.archive_path.read_bytes())
    assert built.ref.target == packing.target_path(built.ref.variant)
    assert built.wire_bytes == built.ref.archive_bytes == built.archive_path.stat().st_size
    assert built.file_bytes == len(b"the runtime file")
    assert (manifest.artifact, manifest.scheme) == ("model.onnx", "u8s8")
    assert manifest.io is not None
    assert manifest.io.labels == ("a", "b", "c")
    assert {entry.path for entry in manifest.files} == {
        "model.onnx",
        "golden_inputs.npy",
        "golden_outputs.npy",
        "golden_reference.npy",
    }
    with tarfile.open(built.archive_path) as archive:
        assert sorted(archive.getnames()) == sorted(
            ["bundle.json", *(entry.path for entry in manifest.files)]
        )


def test_goldens_are_few_and_as_they_were_given(tmp_path: Path) -> None:
    asked = request()
    built = bundle.build(asked, tmp_path)
    inputs = np.load(built.folder / "golden_inputs.npy")
    assert inputs.dtype == np.uint8
    np.testing.assert_array_equal(inputs, asked.golden_inputs[: bundle.GOLDENS])
    assert len(np.load(built.folder / "golden_reference.npy")) == bundle.GOLDENS
    assert built.manifest.golden is not None
    assert built.manifest.golden.inputs_scale == 1 / 255
    more = bundle.build(request(golden_limit=40), tmp_path)
    assert len(np.load(more.folder / "golden_inputs.npy")) == 40


@pytest.mark.parametrize(
    ("tolerance", "values", "kind"),
    [
        (0.1, 1.0, np.float16),
        (0.001, 1.0, np.float32),  # float16 would take a good part of it
        (1e5, 1e6, np.float32),  # more than float16 holds
    ],
)
def test_golden_outputs_are_stored_short_where_nothing_is_lost(
    tmp_path: Path, tolerance: float, values: float, kind: type
) -> None:
    outputs = np.random.default_rng(0).random((40, 3), np.float32) * np.float32(values)
    asked = request(golden_outputs=outputs, golden_reference=outputs, tolerance=tolerance)
    folder = bundle.build(asked, tmp_path).folder
    for name in ("golden_outputs.npy", "golden_reference.npy"):
        stored = np.load(folder / name)
        assert stored.dtype == kind
        moved = np.abs(stored.astype(np.float32) - outputs[: len(stored)]).max()
        assert moved <= tolerance * bundle.SHORT_SHARE


def test_equal_requests_give_equal_bytes(tmp_path: Path) -> None:
    one = bundle.build(request(), tmp_path / "one")
    other = bundle.build(request(), tmp_path / "other")
    assert one.ref == other.ref
    assert bundle.build(request(version="1.0.1"), tmp_path / "third").ref != one.ref


def test_building_again_replaces_what_was_there(tmp_path: Path) -> None:
    first = bundle.build(request(), tmp_path)
    (first.folder / "stray").write_text("left over")
    again = bundle.build(request(), tmp_path)
    assert again.ref == first.ref
    assert not (again.folder / "stray").exists()


def test_a_patch_travels_with_it(tmp_path: Path) -> None:
    manifest = PatchManifest(
        artifact_sha256=digest.digest_bytes(b"the runtime file"),
        input_reference=Histogram(low=0.0, high=1.0, counts=(1, 2)),
    )
    patch = calibration.PatchFiles(manifest=manifest, probe_graph=b"graph")
    built = bundle.build(request(patch=patch), tmp_path)
    assert built.manifest.calibration == "calibration.json"
    stored = json.loads((built.folder / "calibration.json").read_bytes())
    assert plain.from_plain(PatchManifest, stored) == manifest
    assert (built.folder / "stem_probe.onnx").read_bytes() == b"graph"


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    built = bundle.build(request(name="../../etc/x y"), tmp_path / "out")
    assert built.folder.parent == tmp_path / "out"
    assert built.manifest.name == "../../etc/x y"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"golden_inputs": np.zeros((40, 2), np.int16)}, "float32 or int64, not int16"),
        ({"golden_outputs": np.zeros((39, 3), np.float32), "golden_limit": 40}, "do not fit"),
        ({"golden_outputs": np.full((40, 3), np.nan, np.float32)}, "not finite"),
        ({"golden_inputs": np.zeros((0, 2), np.uint8)}, "do not fit"),
    ],
)
def test_goldens_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(FitError, match=said):
        bundle.build(request(**changes), tmp_path)
