from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from controller.compress.graph import model as graphs
from controller.errors import FitError, WorkloadError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x1c\0\0\0TFL3rest", "a .tflite file"),
        (b"\x89HDF\r\n\x1a\nrest", "an HDF5 file"),
        (b"\x80\x02rest", "a Python pickle"),
        (b"", "empty"),
        (b"\x00\x01\x02 nonsense", "not a valid ONNX model"),
    ],
)
def test_what_is_no_onnx_is_called_by_its_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(WorkloadError, match=said):
        graphs.load(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="there is no such file"):
        graphs.load(tmp_path / "none.onnx")


def test_a_model_survives_the_disk(tmp_path: Path) -> None:
    onnx.save(nets.chain(), tmp_path / "net.onnx")
    assert graphs.load(tmp_path / "net.onnx") == nets.chain()


def test_layers_and_work() -> None:
    stem, deep, point, side, gemm = graphs.layers(nets.residual())
    assert (stem.kind, stem.cin, stem.cout, stem.height, stem.stride) == ("conv", 4, 8, 13, 2)
    assert stem.macs == 7 * 7 * 9 * 4 * 8
    assert (deep.kind, deep.kernel, deep.macs) == ("dwconv", (3, 3), 7 * 7 * 9 * 8)
    assert (point.kernel, point.macs) == ((1, 1), 7 * 7 * 8 * 8)
    assert side.name == "side"
    assert (gemm.kind, gemm.cin, gemm.cout, gemm.macs) == ("gemm", 108, 6, 648)
    assert graphs.heavy_ops(nets.residual()) == 5
    assert graphs.macs(nets.residual()) == sum(
        layer.macs for layer in graphs.layers(nets.residual())
    )


def test_constants_are_found_wherever_they_are_kept() -> None:
    net = Net((2,))
    value = onnx.numpy_helper.from_array(np.float32([[1], [2]]))
    net.op("Constant", [], "inside", value=value)
    model = net.model(net.op("MatMul", ["input", "inside"], "y"))
    view = graphs.View(model)
    found = view.constant("inside")
    assert found is not None
    assert found.tolist() == [[1.0], [2.0]]
    assert view.constant("input") is None


def test_a_batch_axis_is_set_and_freed() -> None:
    fixed = graphs.with_batch(nets.chain(), 3)
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    free = graphs.with_batch(fixed, None)
    assert free.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert graphs.shapes(nets.chain(), batch=2)["gemm"] == (2, 5)


def test_several_inputs_are_refused_by_name() -> None:
    model = nets.chain()
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1])
    )
    with pytest.raises(FitError, match="input, other"):
        graphs.model_input(model)


def test_names_are_fresh() -> None:
    names = graphs.Names(nets.chain())
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new_1"
    assert names.fresh("conv0_w") == "conv0_w_1"
