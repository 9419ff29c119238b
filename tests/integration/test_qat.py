"""Quantization-aware training as a pass, on the example's trained network."""

from __future__ import annotations

from controller.catalog import workload
from controller.catalog.workload import TRAIN, Split
from controller.compress import evidence
from controller.compress.base import Candidate, Context, Form, Property
from controller.compress.passes.qat import Qat
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.reconstruct import Reconstruct
from controller.compress.quantize import sensitivity
from controller.compress.recipe import Recipe
from tests.integration import example_models

COUNTS = {"calibration_a": 64, TRAIN: 256}


def test_a_little_training_with_two_bits_beats_rounding_to_them() -> None:
    example = example_models.fashion_mnist()
    taken = workload.load(example_models.FOLDER)
    splits = {
        name: Split(inputs=split.inputs[:count], labels=split.labels[:count])
        for name, count in COUNTS.items()
        for split in [taken.data(name)]
    }
    context = Context(workload=taken, splits=splits)  # the teacher comes from the workload
    start = Candidate(form=Form.ONNX, payload=example.model)
    rounded = Recipe(steps=(QuantizeStatic(), Reconstruct(bits=2))).run(start, context)
    trained = Qat(bits=2, epochs=1, samples=256, batch=16).run(start, context)
    assert Property.STATIC in trained.properties
    assert trained.fp32 is not example.model
    images = example.test[:500]
    reference = sensitivity.answers(example.model, images)
    found = [
        evidence.agreement(reference, sensitivity.answers(m.payload, images))
        for m in (trained, rounded)
    ]
    print("agreement, trained and rounded:", found)
    assert found[0] > found[1]
    assert trained.evidence[-1].numbers["steps"] == 16
