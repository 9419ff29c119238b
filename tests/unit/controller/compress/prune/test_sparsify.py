"""Zeros in ONNX graphs: the asked share, the asked layers, and later steps keep them."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from controller.catalog.workload import CALIBRATION, Split, Workload
from controller.compress import execute
from controller.compress.base import Candidate, Context, Form, Property
from controller.compress.graph.model import View
from controller.compress.graph.windows import unfold
from controller.compress.passes.bias_correct import BiasCorrect
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.reconstruct import Reconstruct
from controller.compress.passes.sparsify import SIZE_ONLY, Sparsify
from controller.compress.prune.sparse import layers as sparse_layers
from controller.compress.prune.sparse.apply import Plan, sparsify
from controller.compress.recipe import Recipe
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net

SHAPE = (3, 12, 12)


def context(shape: tuple[int, ...] = SHAPE, count: int = 96) -> Context:
    inputs = nets.images(shape, count=count)
    split = Split(inputs=inputs, labels=np.zeros(count, np.int64))
    workload = Workload(name="tiny", version="1", folder=Path(), input_shape=shape)
    return Context(workload=workload, splits={CALIBRATION: split})


def masks(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {layer.name: layer.matrix() == 0 for layer in sparse_layers.find(model).layers}


METHODS: list[dict[str, Any]] = [
    {"method": "magnitude"},
    {"method": "magnitude", "scope": "global"},
    {"method": "lamp", "scope": "global"},
    {"method": "wanda"},
    {"method": "wanda", "scope": "global", "refit": True},
    {"method": "sparsegpt"},
    {"method": "sparsegpt", "refit": True},
    {"method": "sparsegpt", "scope": "global"},
    {"method": "magnitude", "pattern": "2:4"},
    {"method": "wanda", "pattern": "2:4"},
    {"method": "sparsegpt", "pattern": "2:4"},
    {"method": "magnitude", "depthwise": True},
    {"method": "sparsegpt", "refit": True, "depthwise": True},
    {"method": "sparsegpt", "pattern": "2:4", "depthwise": True},
]


@pytest.mark.parametrize("settings", METHODS, ids=str)
@pytest.mark.parametrize(
    ("build", "shape"), [(nets.chain, SHAPE), (nets.residual, (4, 13, 13))], ids=["chain", "res"]
)
def test_half_of_the_inner_weights_go(
    build: Any, shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    model = build()
    step = Sparsify(sparsity=0.5, **settings)
    start = Candidate(form=Form.ONNX, payload=model)
    found = step.run(start, context(shape))
    zeros, before = masks(found.payload), masks(model)
    names = list(zeros)
    spared = "pattern" in settings or not settings.get("depthwise")  # one input channel
    depthwise = [n for n in names if spared and n == "deep"]
    pruned = [n for n in names[1:-1] if n not in depthwise]
    total = sum(zeros[n].size for n in pruned)
    # 36 odd weights of a row round by a half each
    assert sum(zeros[n].sum() for n in pruned) == pytest.approx(total / 2, abs=0.02 * total)
    assert all(not zeros[n].any() for n in (names[0], names[-1], *depthwise))
    assert not any(m.any() for m in before.values()), "the model was changed in place"
    assert Property.SPARSE in found.properties
    assert found.evidence[0].notes[0] == SIZE_ONLY
    alone = [note for note in found.evidence[0].notes if note.startswith("left alone")]
    assert any("'deep'" in note for note in alone) == bool(depthwise)


def test_compensation_is_worth_more_than_the_score() -> None:
    def quality(**settings: Any) -> float:
        step = Sparsify(sparsity=0.5, **settings)
        found = step.run(Candidate(form=Form.ONNX, payload=nets.chain()), context())
        return found.evidence[0].numbers["sqnr_db"]

    assert quality(method="sparsegpt") > quality(method="magnitude") + 3
    assert quality(method="sparsegpt", refit=True) > quality(method="sparsegpt")


def raw_pixels() -> onnx.ModelProto:
    """A network that takes 0..255: its stem has small weights."""
    model = nets.chain()
    for item in model.graph.initializer:
        if item.name == "conv0_w":
            small = numpy_helper.to_array(item) / 255.0
            item.CopyFrom(numpy_helper.from_array(small.astype(np.float32), item.name))
    return model


def test_a_stem_that_one_threshold_would_wipe_out_is_reported_and_kept() -> None:
    step = Sparsify(sparsity=0.3, method="magnitude", scope="global", ends=True)
    inputs = context()
    found = step.run(Candidate(form=Form.ONNX, payload=raw_pixels()), inputs)
    evidence = found.evidence[0]
    assert evidence.numbers["trapped_layers"] == 1
    assert (
        "trap: one threshold for all layers would leave 'conv0' 0 of its 216 weights (0.0 %)"
        in evidence.notes
    )
    assert (~masks(found.payload)["conv0"]).sum() == 22  # a tenth, rounded up
    assert "most zeros: 'conv0', 89.8% of its weights" in evidence.notes
    bare = sparsify(raw_pixels(), None, Plan(sparsity=0.3, method="magnitude", scope="global",
                                             floor=0.0, ends=True))  # fmt: skip
    assert masks(bare.model)["conv0"].all(), "without the floor the trap closes"
    lamp = sparsify(raw_pixels(), None, Plan(sparsity=0.3, method="lamp", scope="global",
                                             ends=True))  # fmt: skip
    assert lamp.trapped == ()


@pytest.mark.parametrize(
    ("scheme", "bits"), [("u8s8", 8), ("u8s8", 4), ("s8s8", 8), ("s8s8", 3), ("u8u8", 8)]
)
@pytest.mark.parametrize("pattern", ["", "2:4"])
def test_zeros_survive_quantization_and_few_levels(scheme: str, bits: int, pattern: str) -> None:
    steps: tuple[Any, ...] = (
        Sparsify(sparsity=0.6, pattern=pattern), QuantizeStatic(scheme=scheme)
    )  # fmt: skip
    if bits < 8:
        steps += (Reconstruct(bits=bits),)
    recipe = Recipe(steps=(*steps, BiasCorrect()))
    found = recipe.run(Candidate(form=Form.ONNX, payload=nets.chain()), context())
    sparse = recipe.steps[0].run(Candidate(form=Form.ONNX, payload=nets.chain()), context())
    view = View(found.payload)
    for layer in sparse_layers.find(sparse.payload).layers[1:-1]:
        zeros = numpy_helper.to_array(layer.tensor) == 0
        node = next(n for n in found.payload.graph.node if n.name == layer.name)
        reader = view.producers[node.input[1]]
        levels, zero_point = (view.constant(reader.input[i]) for i in (0, 2))
        assert levels is not None
        assert zero_point is not None
        assert zeros.mean() > 0.49
        assert (levels[zeros] == zero_point.ravel()[0]).all()
        assert (levels[~zeros] != zero_point.ravel()[0]).any()


def test_zeros_make_the_transfer_smaller_not_the_file() -> None:
    def bytes_of(model: onnx.ModelProto) -> tuple[int, int]:
        content = model.SerializeToString(deterministic=True)
        return len(content), len(lzma.compress(content))

    before = bytes_of(nets.chain())
    after = bytes_of(sparsify(nets.chain(), None, Plan(sparsity=0.8, method="magnitude")).model)
    assert after[0] == before[0]
    assert after[1] < 0.85 * before[1]


def test_weights_in_constant_nodes_are_pruned_too() -> None:
    model = nets.chain()
    kept = [i for i in model.graph.initializer if i.name != "conv1_w"]
    (moved,) = [i for i in model.graph.initializer if i.name == "conv1_w"]
    node = helper.make_node("Constant", [], ["conv1_w"], name="constant", value=moved)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.node.insert(0, node)
    found = sparsify(model, nets.images(SHAPE), Plan(sparsity=0.5))
    plain = sparsify(nets.chain(), nets.images(SHAPE), Plan(sparsity=0.5))
    assert found.zeros == plain.zeros
    one, other = (masks(f.model)["conv1"] for f in (found, plain))
    assert np.array_equal(one, other)


def test_what_is_not_known_is_left_alone_and_listed() -> None:
    net = Net((4, 8, 8), seed=3)
    x = net.op("Relu", [net.conv("input", "first", 4, 8)], "r1")
    x = net.op("Relu", [net.conv(x, "second", 8, 8)], "r2")
    up = net.weights("up_w", (8, 8, 2, 2))
    x = net.op("ConvTranspose", [x, up], "up", kernel_shape=[2, 2], strides=[2, 2])
    shared = net.weights("shared_w", (8, 8, 1, 1))
    x = net.op("Conv", [x, shared], "one", kernel_shape=[1, 1])
    x = net.op("Conv", [x, shared], "two", kernel_shape=[1, 1])
    model = net.model(net.conv(x, "last", 8, 2), rank=4)
    found = sparsify(model, nets.images((4, 8, 8)), Plan(sparsity=0.5))
    assert set(found.zeros) == {"second"}
    assert found.left_alone == (
        "left alone: ConvTranspose 'up': its weights are not pruned",
        "left alone: Conv 'one': something else reads 'shared_w' too",
        "left alone: Conv 'two': something else reads 'shared_w' too",
    )


def test_products_of_sequences_are_pruned() -> None:
    """MatMul with inputs [N, T, K], as in text models; the mask follows its inputs' energy."""
    net = Net((6, 8), seed=5)
    x = net.op("MatMul", ["input", net.weights("a_w", (8, 12))], "a")
    x = net.op("MatMul", [net.op("Relu", [x], "r"), net.weights("b_w", (12, 10))], "b")
    model = net.model(net.op("MatMul", [x, net.weights("c_w", (10, 3))], "c"), rank=3)
    found = sparsify(model, nets.images((6, 8)), Plan(sparsity=0.5, method="wanda"))
    zeros = masks(found.model)["b"]
    assert zeros.shape == (10, 12)
    assert (zeros.sum(axis=1) == 6).all()


CONVOLUTIONS: list[dict[str, Any]] = [
    {}, {"strides": [2, 2]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"group": 2},
    {"pads": [0, 1, 2, 0]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"auto_pad": "VALID"},
]  # fmt: skip


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_rows_times_weights_are_the_convolution(options: dict[str, Any]) -> None:
    net = Net((4, 10, 10))
    model = net.model(net.conv("input", "conv", 4, 8, **options), rank=4)
    images = nets.images((4, 10, 10), count=3)
    (layer,) = sparse_layers.find(model).layers
    shape = tuple(layer.tensor.dims)
    rows = unfold(layer.node, images, shape, 10**6, np.random.default_rng(0))
    bias = numpy_helper.to_array(model.graph.initializer[1])
    parts = np.split(layer.matrix(), layer.groups)
    found = np.concatenate([x @ w.T for x, w in zip(rows, parts, strict=True)], axis=1) + bias
    expected = execute.outputs(model.SerializeToString(), "onnx", images)
    expected = np.moveaxis(expected, 1, -1).reshape(-1, 8)
    # Places come in a drawn order: as sets of rows the two are equal.
    order, other = np.lexsort(found.T), np.lexsort(expected.T)
    assert np.allclose(found[order], expected[other], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gradient"}, "a method of magnitude, lamp, wanda, sparsegpt"),
        ({"sparsity": 1.0}, "a sparsity between 0 and 1"),
        ({"pattern": "2:4", "scope": "global"}, "its scope is 'layer'"),
        ({"pattern": "half"}, "no pattern such as 2:4"),
    ],
)
def test_bad_settings_say_what_is_needed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        Sparsify(**settings).run(Candidate(form=Form.ONNX, payload=nets.chain()), context())


def test_a_model_without_weights_says_so() -> None:
    net = Net(SHAPE)
    model = net.model(net.op("Relu", ["input"], "relu"), rank=4)
    with pytest.raises(FitError, match="no weights can be pruned: there are none"):
        sparsify(model, None, Plan(method="magnitude"))


def test_the_same_seedless_run_gives_the_same_bytes() -> None:
    inputs = nets.images(SHAPE, count=32)
    one, other = (sparsify(nets.chain(), inputs, Plan()).model for _ in range(2))
    assert one.SerializeToString() == other.SerializeToString()
