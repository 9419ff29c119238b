"""Mixed precision and its guard on the example's trained network."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from controller.catalog import workload
from controller.catalog.workload import GUARD, Split
from controller.compress import evidence
from controller.compress.base import Candidate, Context, Form
from controller.compress.passes.mixed import MixedPrecision
from controller.compress.quantize import judge, ranges, reconstruct, sensitivity, static, widths
from controller.compress.search import guard
from tests.integration import example_models
from tests.integration.example_models import Example

CALIBRATION, GUARDS = 128, 512


@pytest.fixture(scope="module")
def example() -> Example:
    return example_models.fashion_mnist()


def context() -> Context:
    """The workload with fewer inputs than it has, and none of the test set."""
    taken = workload.load(example_models.FOLDER)
    counts = {"calibration_a": CALIBRATION, GUARD: GUARDS}
    return Context(
        workload=taken,
        splits={
            name: Split(inputs=split.inputs[:count], labels=split.labels[:count])
            for name, count in counts.items()
            for split in [taken.data(name)]
        },
    )


def quality(reference: Any, model: onnx.ModelProto, example: Example) -> tuple[float, float]:
    """SQNR in dB and agreement on images of the test set."""
    found = sensitivity.answers(model, example.test)
    sqnr = evidence.sqnr_db(reference, found)
    assert sqnr is not None
    return sqnr, evidence.agreement(reference, found)


def test_at_the_same_wire_bytes_a_mixture_is_better_than_three_bits(example: Example) -> None:
    made = MixedPrecision(like_bits=3.0, drop_max=1.0).run(
        Candidate(form=Form.ONNX, payload=example.model), context()
    )
    inputs = example.calibration[:CALIBRATION]
    whole = static.quantize(example.model, ranges.collect(example.model, inputs), scheme="u8s8")
    uniform = reconstruct.reconstruct(
        example.model, whole, inputs, bits=3, whole=reconstruct.edges(whole)
    ).model
    sizes = [widths.coded_bytes(m.SerializeToString()) for m in (made.payload, uniform)]
    assert sizes[0] <= sizes[1] * 1.01
    reference = sensitivity.answers(example.model, example.test)
    mixed, three = (quality(reference, m, example) for m in (made.payload, uniform))
    print("mixed", mixed, "three", three, sizes)
    assert mixed[0] > three[0] + 1.0
    assert mixed[1] >= three[1]
    (step,) = made.evidence
    assert step.numbers["guard_met"] == 1.0
    assert step.numbers["wire_bytes"] <= step.numbers["wire_bytes_allocated"]


def two_units(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The same function of an image whose right half comes in a unit ``factor`` times finer."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = {t.name: t for t in changed.graph.initializer}
    stem = next(n for n in changed.graph.node if n.op_type == "Conv")
    old = numpy_helper.to_array(tensors[stem.input[1]])
    both = np.concatenate([old, old / np.float32(factor)], axis=1)
    tensors[stem.input[1]].CopyFrom(numpy_helper.from_array(both, stem.input[1]))
    changed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    del changed.graph.value_info[:]
    return changed


def split_units(images: Any, factor: float) -> Any:
    left, right = images.copy(), images * np.float32(factor)
    left[..., 14:], right[..., :14] = 0.0, 0.0
    return np.concatenate([left, right], axis=1)


def outlier(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The same function with one channel between the third and fourth layer ``factor`` as large."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = {t.name: t for t in changed.graph.initializer}
    before, after = [n for n in changed.graph.node if n.op_type == "Conv"][2:4]
    for name, place, by in (
        (before.input[1], (5,), factor),
        (before.input[2], (5,), factor),
        (after.input[1], (slice(None), 5), 1 / factor),
    ):
        values = numpy_helper.to_array(tensors[name]).copy()
        values[place] *= np.float32(by)
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return changed


@pytest.mark.parametrize("kind", ["input", "channel"])
def test_a_layer_ruined_by_int8_is_widened_and_no_other(example: Example, kind: str) -> None:
    images, expected = example.calibration[:256], {0}
    labels = workload.load(example_models.FOLDER).data("calibration_a").labels[:256]
    model = outlier(example.model, 3e4)
    if kind == "channel":
        expected = {2, 3}  # both touch the tensor with the outlier
    else:
        model, images = two_units(example.model, 3e4), split_units(images, 3e4)
    composer = widths.Composer(model, ranges.collect(model, images), images, scheme="u8s8")
    start = composer.all_at(widths.WHOLE)
    weigher = judge.ModelJudge(
        composer, model, images, lambda found: float((found.argmax(axis=1) == labels).mean())
    )
    plain = sensitivity.answers(example.model, example.calibration[:256])
    assert np.allclose(weigher.reference, plain, atol=1e-3)
    found = guard.guard(start, composer.groups(), weigher, limit=0.01)
    print(kind, found)
    assert found.drop_before > 0.1
    assert found.met
    assert set(found.widened) == {composer.layers[place] for place in expected}
