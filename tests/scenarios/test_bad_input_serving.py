"""The matrix of bad input, fourth part: requests to a served model.

Each row is one mistake, the status and the words that it is answered with. Afterwards a good
request is answered as before: no mistake of one application is felt by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.integration import serving_models as shop
from tests.integration import worker_models as models
from tests.integration.serving_models import Client, output, request

X = models.affine_inputs(2)
MESSAGE_BYTES = 64 * 1024
INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNKNOWN = grpc.StatusCode.NOT_FOUND


@dataclass(frozen=True)
class Row:
    """One mistake."""

    name: str
    ask: Callable[[], Any]
    status: grpc.StatusCode
    says: str


def typed(datatype: str, field: str, values: list[Any], shape: tuple[int, ...] = (1, 4)) -> Any:
    """A request with typed contents in a field of one's choice."""
    made = request()
    item = made.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(item.contents, field).extend(values)
    return made


def changed(change: Callable[[Any], object]) -> Any:
    """A good request, spoilt."""
    made = request(X)
    change(made)
    return made


def shaped(*shape: int) -> Any:
    """The shape that is claimed; the bytes are those of ``X``."""
    return changed(lambda r: (r.inputs[0].ClearField("shape"), r.inputs[0].shape.extend(shape)))


def parameter(where: str, name: str) -> Any:
    """A parameter that would change the answer."""
    made = request(X)
    made.outputs.add(name="y")
    place = {"request": made, "input": made.inputs[0], "output": made.outputs[0]}[where]
    place.parameters[name].int64_param = 3
    return made


ROWS = (
    Row(
        "no such model",
        lambda: request(X, model="hats"),
        UNKNOWN,
        "no model 'hats'.*there is shoes",
    ),
    Row("no model named", lambda: request(X, model=""), UNKNOWN, "no model ''"),
    Row("no such version", lambda: request(X, version="2"), UNKNOWN, "leave the version out"),
    Row("no such input", lambda: request(X, name="z"), INVALID, "takes the inputs x, got z"),
    Row("no input", request, INVALID, "takes the inputs x, got"),
    Row("an input twice", lambda: request(X, X), INVALID, "got x, x"),
    Row(
        "no such output", lambda: changed(lambda r: r.outputs.add(name="z")), INVALID, "there are y"
    ),
    Row("integers for reals", lambda: request(X.astype(np.int8)), INVALID, "takes FP32.*got INT8"),
    Row("texts", lambda: request(X, datatype="BYTES"), INVALID, "texts and other"),
    Row("brain floats", lambda: request(X, datatype="BF16"), INVALID, "no datatype that is served"),
    Row(
        "no datatype",
        lambda: changed(lambda r: r.inputs[0].ClearField("datatype")),
        INVALID,
        "got none",
    ),
    Row("too few axes", lambda: shaped(8), INVALID, r"has shape \[-1, 4\].*got \[8\]"),
    Row("too many axes", lambda: shaped(1, 2, 4), INVALID, r"got \[1, 2, 4\]"),
    Row("a wrong axis", lambda: shaped(4, 2), INVALID, r"got \[4, 2\]"),
    Row("no samples", lambda: shaped(0, 4), INVALID, "any size from 1"),
    Row("a negative size", lambda: shaped(-1, 4), INVALID, r"got \[-1, 4\]"),
    Row("a size beyond memory", lambda: shaped(1 << 61, 4), INVALID, "bytes, got 32"),
    Row("a byte too few", lambda: changed(_cut_a_byte), INVALID, "is 32 bytes, got 31"),
    Row(
        "contents missing",
        lambda: changed(lambda r: r.ClearField("raw_input_contents")),
        INVALID,
        "has 8 elements, got 0",
    ),
    Row(
        "raw contents left over",
        lambda: changed(lambda r: r.raw_input_contents.append(b"")),
        INVALID,
        "2 raw contents for 1 inputs",
    ),
    Row(
        "raw and typed",
        lambda: changed(lambda r: r.inputs[0].contents.fp32_contents.append(1.0)),
        INVALID,
        "send one of them",
    ),
    Row("typed, too few", lambda: typed("FP32", "fp32_contents", [1.0]), INVALID, "got 1 in"),
    Row(
        "typed, in another's field",
        lambda: typed("FP32", "int_contents", [1] * 4),
        INVALID,
        "got 0 in 'fp32_contents'",
    ),
    Row(
        "typed halves",
        lambda: typed("FP16", "fp32_contents", [1.0] * 4),
        INVALID,
        "raw contents only",
    ),
    Row("a sequence", lambda: parameter("request", "sequence_id"), INVALID, "keeps no state"),
    Row(
        "shared memory in", lambda: parameter("input", "shared_memory_region"), INVALID, "send the"
    ),
    Row(
        "shared memory out",
        lambda: parameter("output", "shared_memory_region"),
        INVALID,
        "send the",
    ),
    Row("classes wanted", lambda: parameter("output", "classification"), INVALID, "sort them"),
    Row(
        "too large",
        lambda: request(models.affine_inputs(MESSAGE_BYTES // 8)),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
    ),
)


def _cut_a_byte(made: Any) -> None:
    made.raw_input_contents[0] = made.raw_input_contents[0][:-1]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("shop")
    models.affine_bundle(folder / "a", shop.FLOAT)
    size = MESSAGE_BYTES
    with shop.offered(folder / "a", folder / "g", max_message_bytes=size) as (_, made):
        yield made


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_mistake_is_answered_and_felt_by_nobody_else(client: Client, row: Row) -> None:
    with pytest.raises(grpc.RpcError, match=row.says) as refused:
        client.stub.ModelInfer(row.ask(), timeout=20)
    assert refused.value.code() is row.status
    assert np.allclose(output(client.infer(X)), models.affine(X), atol=1e-5)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.LITERT_INT8)
    with shop.offered(tmp_path / "a", tmp_path / "g") as (service, client):
        with service.bound() as served:
            name = served.inputs[0].name
        broken = X.copy()
        broken[0, 0] = np.nan
        with pytest.raises(grpc.RpcError, match="not finite") as refused:
            client.infer(broken, name=name)
        assert refused.value.code() is INVALID


@pytest.mark.parametrize("rubbish", [b"\xff" * 40, b"GET / HTTP/1.1\r\n\r\n"])
def test_rubbish_on_the_socket_ends_its_own_connection(tmp_path: Path, rubbish: bytes) -> None:
    import socket

    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with shop.offered(tmp_path / "a", tmp_path / "g") as (_, client):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.settimeout(10)
            other.connect(str(tmp_path / "g"))
            other.sendall(rubbish)
            while other.recv(4096):
                pass
        assert np.allclose(output(client.infer(X)), models.affine(X), atol=1e-5)
