"""Datatypes of the Open Inference Protocol."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers.child import JobError
from agent.workers.runtimes.base import Tensor
from agent.workers.serving import datatypes

FLOAT = Tensor(name="x", dtype="float32", shape=(-1, 4))
HALF = Tensor(name="x", dtype="float16", shape=(-1, 4))
QUANTIZED = Tensor(name="x", dtype="int8", shape=(-1, 4), scale=0.1)
TOKENS = Tensor(name="x", dtype="int64", shape=(-1, 4))
FLAGS = Tensor(name="x", dtype="bool", shape=(-1, 4))


@pytest.mark.parametrize(
    ("tensor", "offered", "taken"),
    [
        (FLOAT, "FP32", ("FP32", "FP16", "FP64")),
        (HALF, "FP32", ("FP32", "FP16", "FP64")),
        (QUANTIZED, "FP32", ("FP32", "FP16", "FP64", "INT8")),
        (TOKENS, "INT64", ("INT64",)),
        (FLAGS, "BOOL", ("BOOL",)),
    ],
)
def test_what_is_offered_and_taken(tensor: Tensor, offered: str, taken: tuple[str, ...]) -> None:
    assert datatypes.of(tensor) == offered
    assert datatypes.taken(tensor) == taken
    for datatype in taken:
        datatypes.check(tensor, datatype)


@pytest.mark.parametrize(
    ("tensor", "datatype", "says"),
    [
        (FLOAT, "INT8", "takes FP32, FP16, FP64, got INT8"),
        (TOKENS, "FP32", "takes INT64, got FP32"),
        (QUANTIZED, "UINT8", "INT8, got UINT8"),
        (FLOAT, "BYTES", "no fixed size are not served"),
        (FLOAT, "BF16", "is no datatype that is served"),
        (FLOAT, "", "got none"),
    ],
)
def test_what_is_refused(tensor: Tensor, datatype: str, says: str) -> None:
    with pytest.raises(JobError, match=says) as refused:
        datatypes.check(tensor, datatype)
    assert refused.value.code == "input_mismatch"


@pytest.mark.parametrize("datatype", datatypes.NUMPY)
def test_bytes_there_and_back(datatype: str) -> None:
    dtype = datatypes.NUMPY[datatype]
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    data = datatypes.to_bytes(values)
    back = datatypes.from_bytes("x", datatype, (2, 3), data)
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)
    with pytest.raises(JobError, match=f"got {len(data) - 1}"):
        datatypes.from_bytes("x", datatype, (2, 3), data[:-1])


def test_raw_contents_are_little_endian() -> None:
    assert datatypes.to_bytes(np.array([1], dtype=">i4")) == b"\x01\x00\x00\x00"
    assert datatypes.from_bytes("x", "INT16", (1,), b"\x01\x02")[0] == 0x0201


@pytest.mark.parametrize("datatype", datatypes.CONTENTS)
def test_values_there_and_back(datatype: str) -> None:
    values = np.array([1, 0, 1], dtype=datatypes.NUMPY[datatype])
    back = datatypes.from_values("x", datatype, (3,), list(datatypes.to_values(values)))
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)
    assert datatypes.named(back) == datatype


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(JobError, match="INT8"):
        datatypes.from_values("x", "INT8", (1,), [300])
    with pytest.raises(JobError, match="UINT8"):
        datatypes.from_values("x", "UINT8", (1,), [256])
    with pytest.raises(JobError, match="has 2 elements, got 3"):
        datatypes.from_values("x", "INT32", (2,), [1, 2, 3])
