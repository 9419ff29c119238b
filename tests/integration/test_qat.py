"""Quantization-aware training as a pass, on the example's trained network."""

from __future__ import annotations

from controller.catalog import workload
from controller.catalog.workload import TRAIN, Split
from controller.compress import evidence
from controller.compress.base import Candidate, Context, Form, Property
from controller.compress.passes.qat import Qat
from controller.compress.qat.network import GraphNet
from controller.compress.quantize import ranges, sensitivity
from tests.integration import example_models

COUNTS = {"calibration_a": 64, TRAIN: 256}


def test_sixteen_steps_bring_two_bit_weights_back() -> None:
    example = example_models.fashion_mnist()
    taken = workload.load(example_models.FOLDER)
    splits = {
        name: Split(inputs=split.inputs[:count], labels=split.labels[:count])
        for name, count in COUNTS.items()
        for split in [taken.data(name)]
    }
    context = Context(workload=taken, splits=splits)  # the teacher comes from the workload
    start = Candidate(form=Form.ONNX, payload=example.model)
    found = ranges.collect(example.model, context.calibration)
    layers = [n.name for n in example.model.graph.node if n.op_type == "Conv"][1:]
    untrained = GraphNet(example.model, found, scheme="u8s8", bits=dict.fromkeys(layers, 2.0))
    trained = Qat(bits=2, epochs=1, samples=256, batch=16).run(start, context)
    assert Property.STATIC in trained.properties
    assert trained.fp32 is not example.model
    images = example.test[:300]
    reference = sensitivity.answers(example.model, images)
    after, before = (
        evidence.agreement(reference, sensitivity.answers(m, images))
        for m in (trained.payload, untrained.export().quantized)
    )
    assert after > 0.8
    assert after > before + 0.1
    assert trained.evidence[-1].numbers["steps"] == 16
