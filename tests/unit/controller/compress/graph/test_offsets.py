from __future__ import annotations

import pytest
from onnx import numpy_helper

from controller.compress.graph.offsets import initializer_extents
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets


def test_every_initializer_is_found_where_it_lies() -> None:
    model = nets.residual()
    data = model.SerializeToString()
    extents = initializer_extents(data)
    assert set(extents) == {item.name for item in model.graph.initializer}
    for item in model.graph.initializer:
        extent = extents[item.name]
        raw = data[extent.offset : extent.offset + extent.size]
        assert raw == numpy_helper.to_array(item).tobytes()


@pytest.mark.parametrize("data", [b"\x3a\x7f", b"\xff" * 12, b"\x3b\x00", b"\x08"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FitError, match="no serialized model"):
        initializer_extents(data)
