"""The Open Inference Protocol over a real socket, in this process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from agent.jobs import RuntimeOptions, ServingOptions
from agent.workers.child import JobError
from agent.workers.serving import open_inference
from agent.workers.serving.served import Cut
from agent.workers.serving.service import Service
from fitment.oip import open_inference_pb2 as pb
from tests.integration import serving_models as shop
from tests.integration import worker_models as models
from tests.integration.serving_models import Client, offered, output, request

X = models.affine_inputs(5)


@pytest.fixture(scope="module")
def float_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Client, str]]:
    folder = tmp_path_factory.mktemp("shop")
    variant = models.affine_bundle(folder / "a", shop.FLOAT)
    with offered(folder / "a", folder / "g", port=0) as (service, client):
        yield service, client, variant


def test_it_says_what_it_is(float_shop: tuple[Service, Client, str]) -> None:
    _, client, variant = float_shop
    stub = client.stub
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    for name, version, ready in (
        ("shoes", "", True), ("shoes", variant, True), ("shoes", "sha256:0", False),
        ("hats", "", False),
    ):  # fmt: skip
        assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready is ready
    told = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (told.name, list(told.extensions)) == ("fitment-agent", ["statistics"])
    model = stub.ModelMetadata(pb.ModelMetadataRequest(name="shoes"))
    assert (model.name, list(model.versions)) == ("shoes", [variant])
    (taken,), (given,) = model.inputs, model.outputs
    assert (taken.name, taken.datatype, list(taken.shape)) == ("x", "FP32", [-1, 4])
    assert (given.name, given.datatype, list(given.shape)) == ("y", "FP32", [-1, 3])


@pytest.mark.parametrize("raw", [True, False])
def test_contents_go_back_as_they_came(
    float_shop: tuple[Service, Client, str], *, raw: bool
) -> None:
    _, client, variant = float_shop
    answer = client.infer(X, raw=raw, id="seven")
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "shoes", variant)
    assert bool(answer.raw_output_contents) is raw
    assert np.allclose(output(answer), models.affine(X), atol=1e-5)
    assert answer.parameters["batch"].int64_param == 5


def test_half_precision_is_taken_for_real_values(
    float_shop: tuple[Service, Client, str],
) -> None:
    _, client, _ = float_shop
    answer = client.infer(X.astype(np.float16))
    assert answer.outputs[0].datatype == "FP32"
    assert np.allclose(output(answer), models.affine(X), atol=1e-2)


def test_a_version_may_be_named(float_shop: tuple[Service, Client, str]) -> None:
    _, client, variant = float_shop
    assert client.infer(X, version=variant).model_version == variant


def test_a_number_of_samples_beyond_a_batch_is_cut(
    float_shop: tuple[Service, Client, str],
) -> None:
    _, client, _ = float_shop
    many = models.affine_inputs(50)
    assert np.allclose(output(client.infer(many)), models.affine(many), atol=1e-5)


def test_statistics_count_since_the_load(tmp_path: Path) -> None:
    variant = models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with offered(tmp_path / "a", tmp_path / "g") as (service, client):
        client.infer(X)
        client.infer(X[:2])
        with pytest.raises(grpc.RpcError):
            client.infer(X, model="hats")
        (told,) = client.stub.ModelStatistics(pb.ModelStatisticsRequest(name="shoes")).model_stats
        assert (told.version, told.inference_count, told.execution_count) == (variant, 7, 2)
        found = told.inference_stats
        assert (found.success.count, found.fail.count, found.queue.count) == (2, 1, 2)
        assert found.success.ns >= found.compute_infer.ns > 0
        assert [(b.batch_size, b.compute_infer.count) for b in told.batch_stats] == [(2, 1), (5, 1)]
        report = service.report()
    assert report["errors_by_code"] == {"model_unknown": 1}
    assert report["inputs"]["x"]["samples"] == 5  # the first of every eight runs is looked at
    assert report["inputs"]["x"]["mean"] == pytest.approx(float(X.mean()), abs=1e-6)


def test_the_port_is_on_the_loopback_only_and_off_unless_asked_for(
    float_shop: tuple[Service, Client, str], tmp_path: Path
) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    for port in (None, 0):
        options = ServingOptions(grpc_socket=str(tmp_path / "g"), port=port)
        service = Service(str(tmp_path / "a"), "", RuntimeOptions(), serving_options=options)
        server = open_inference.Server(service, options)
        if server.port is not None:
            client = Client(f"127.0.0.1:{server.port}")
            assert client.infer(X, model="model").outputs[0].name == "y"
            taken = ServingOptions(grpc_socket=str(tmp_path / "h"), port=server.port)
            with pytest.raises(JobError, match="choose another port"):
                open_inference.Server(service, taken)
            client.channel.close()
        assert (server.port is None) is (port is None)
        server.close()
        service.close()
        assert not (tmp_path / "g").exists()


def test_the_socket_is_for_its_group_only(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with offered(tmp_path / "a", tmp_path / "g"):
        assert (tmp_path / "g").stat().st_mode & 0o777 == 0o660


# --- types and axes ---------------------------------------------------------------------------


def test_a_quantized_file_is_offered_as_real_values_and_takes_its_own(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.LITERT_INT8)
    with offered(tmp_path / "a", tmp_path / "g") as (service, client):
        told = client.stub.ModelMetadata(pb.ModelMetadataRequest(name="shoes"))
        assert (told.inputs[0].datatype, list(told.inputs[0].shape)) == ("FP32", [-1, 4])
        with service.bound() as served:
            assert (served.cut, served.portion) == (Cut.PORTIONS, 1)
        name = told.inputs[0].name
        real = output(client.infer(X, name=name))
        stored = np.clip(np.rint(X / models.INPUT_SCALE) + models.INPUT_ZERO, -128, 127)
        for raw in (True, False):
            own = client.infer(stored.astype(np.int8), name=name, raw=raw)
            assert own.outputs[0].datatype == "FP32"
            assert np.array_equal(output(own), real)
        assert np.allclose(real, models.affine(X), atol=shop.LITERT_INT8.tolerance)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(TensorProto.INT64, "int64"), (TensorProto.UINT8, "uint8"), (TensorProto.BOOL, "bool")],
)
def test_other_types_go_through_exactly(tmp_path: Path, kind: int, dtype: str) -> None:
    goldens = np.eye(4, dtype=np.float32)
    shop.bundle(tmp_path / "a", shop.passed_on(kind), inputs=goldens)
    values = np.array([[0, 1, 200, 255]], dtype=dtype)
    if dtype == "int64":
        values = values + (1 << 53)  # no float tells these apart
    with offered(tmp_path / "a", tmp_path / "g") as (_, client):
        answer = client.infer(values)
    assert answer.outputs[0].datatype == shop.DATATYPES[dtype]
    assert np.array_equal(output(answer), values)


def test_answers_that_depend_on_the_company_are_never_batched(tmp_path: Path) -> None:
    shop.bundle(tmp_path / "a", shop.centred())
    with offered(tmp_path / "a", tmp_path / "g", max_delay_ms=50.0) as (service, client):
        report = service.report()["batching"]
        assert report["cut"] == "alone"
        assert "with the company" in report["why"]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: output(client.infer(X[:1])), range(8)))
        assert all(np.array_equal(answer, np.zeros((1, 4))) for answer in answers)
        together = output(client.infer(X))  # what a client sends together stays together
        assert np.allclose(together, X - X.mean(axis=0), atol=1e-6)


def test_one_answer_for_all_samples_of_a_request_is_left_whole(tmp_path: Path) -> None:
    shop.bundle(tmp_path / "a", shop.largest())
    with offered(tmp_path / "a", tmp_path / "g", max_batch=2) as (service, client):
        assert service.report()["batching"]["cut"] == "alone"
        assert np.allclose(output(client.infer(X)), X.max(axis=0, keepdims=True))


# --- batches, cancelling, shadows ---------------------------------------------------------------


def test_requests_that_wait_run_together_and_get_their_own_answers(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with offered(tmp_path / "a", tmp_path / "g", max_batch=4, max_delay_ms=2000.0) as (_, client):
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda i: client.infer(X[i : i + 1]), range(4)))
        took_s = time.monotonic() - began
    assert [answer.parameters["batch"].int64_param for answer in answers] == [4, 4, 4, 4]
    assert np.allclose(
        np.concatenate([output(a) for a in answers]), models.affine(X[:4]), atol=1e-5
    )
    assert took_s < 2.0  # a full batch does not wait


def test_one_alone_waits_no_longer_than_the_delay(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with offered(tmp_path / "a", tmp_path / "g", max_delay_ms=100.0) as (service, client):
        began = time.monotonic()
        client.infer(X[:1])
        assert time.monotonic() - began >= 0.1
        assert service.report()["queue_mean_ms"] >= 100.0


class Held(contextlib.AbstractContextManager["Held"]):
    """A service whose model is busy until it is let go."""

    def __init__(self, service: Service, client: Client) -> None:
        self.service, self.client = service, client
        self.line = service._batcher._line
        with service.bound() as served:
            self.lock = served.session_lock

    def __enter__(self) -> Held:  # noqa: PYI034 - 3.10 has no Self
        self.lock.acquire()
        self.first = self.client.stub.ModelInfer.future(request(X[:1]), timeout=20)
        wait_until(lambda: self.service._batcher.running == 1)  # it waits for the model alone
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock.locked():
            self.lock.release()


def wait_until(holds: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_who_gives_up_leaves_the_line(tmp_path: Path, how: str) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with (
        offered(tmp_path / "a", tmp_path / "g") as (service, client),
        Held(service, client) as held,
    ):
        timeout = 20.0 if how == "cancelled" else 0.2
        second = client.stub.ModelInfer.future(request(X), timeout=timeout)
        wait_until(lambda: len(held.line) == 1)
        if how == "cancelled":
            second.cancel()
        else:
            assert second.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: service.report()["errors_by_code"] == {"cancelled": 1})
        held.lock.release()
        assert np.allclose(output(held.first.result()), models.affine(X[:1]), atol=1e-5)
        report = service.report()
        assert (report["runs"], report["samples"]) == (1, 1)  # the second never ran


def test_a_full_line_refuses_and_says_so(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with (
        offered(tmp_path / "a", tmp_path / "g", max_waiting=2) as (service, client),
        Held(service, client) as held,
    ):
        waiting = [client.stub.ModelInfer.future(request(X), timeout=20) for _ in range(2)]
        wait_until(lambda: len(held.line) == 2)
        with pytest.raises(grpc.RpcError, match="2 requests wait already") as refused:
            client.infer(X)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        held.lock.release()
        assert [output(call.result()).shape for call in waiting] == [(5, 3), (5, 3)]


def test_a_request_in_flight_ends_on_the_model_that_took_it(tmp_path: Path) -> None:
    variant = models.affine_bundle(tmp_path / "a", shop.FLOAT)
    successor = models.affine_bundle(tmp_path / "b", shop.DYNAMIC)
    with offered(tmp_path / "a", tmp_path / "g") as (service, client):
        with service.bound() as old:
            pass
        with Held(service, client) as held:
            second = client.stub.ModelInfer.future(request(X), timeout=20)
            wait_until(lambda: len(held.line) == 1)
            swap = threading.Thread(
                target=service.swap, args=(str(tmp_path / "b"), ""), daemon=True
            )
            swap.start()
            swap.join(10)
            assert not swap.is_alive(), "it must return though the old model is busy"
            assert client.stub.ModelReady(
                pb.ModelReadyRequest(name="shoes", version=successor)
            ).ready
            third = client.stub.ModelInfer.future(request(X), timeout=20)
            wait_until(lambda: len(held.line) == 2)
            held.lock.release()
            calls = (held.first, second, third)
            found = [call.result().model_version for call in calls]
        assert found == [variant, variant, successor]
        wait_until(lambda: not hasattr(old.loaded.session, "_session"))  # nobody is bound: it went


def test_a_shadow_sees_everything_and_answers_nothing(tmp_path: Path) -> None:
    variant = models.affine_bundle(tmp_path / "a", shop.FLOAT)
    candidate = models.affine_bundle(tmp_path / "b", shop.LITERT_INT8)
    with offered(tmp_path / "a", tmp_path / "g") as (service, client):
        service.shadow(str(tmp_path / "b"), "")
        answers = [client.infer(X) for _ in range(10)]
        assert {answer.model_version for answer in answers} == {variant}
        assert all(np.allclose(output(a), models.affine(X), atol=1e-5) for a in answers)
        wait_until(lambda: _seen(service) == 50)
        report = service.report()["shadow"]
        assert report["variant"] == candidate
        assert 0.5 < report["agreement"] <= 1.0
        assert 0.0 < report["worst_difference"] < shop.LITERT_INT8.tolerance
        assert report["run_p50_ms"] > 0
        assert report["errors"] == {}
        service.swap(str(tmp_path / "b"), "")
        assert service.report()["shadow"] is None  # it serves now: nothing is left to compare


def _seen(service: Service) -> int:
    report = service.report()["shadow"]
    return int(report["samples"] + report["dropped"])


def test_a_shadow_that_is_too_slow_drops_and_counts(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    models.affine_bundle(tmp_path / "b", shop.DYNAMIC)
    with offered(tmp_path / "a", tmp_path / "g") as (service, client):
        held = service.shadow(str(tmp_path / "b"), "")
        assert held is not None
        with held.session_lock:
            for _ in range(30):
                client.infer(X[:1])
            assert service.report()["shadow"]["dropped"] >= 30 - 17
        wait_until(lambda: _seen(service) == 30)
        assert service.report()["shadow"]["agreement"] == 1.0


@pytest.mark.parametrize("unfit", ["no bundle", "wrong goldens", "another shape"])
def test_a_candidate_that_does_not_fit_hurts_nobody(tmp_path: Path, unfit: str) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    with offered(tmp_path / "a", tmp_path / "g") as (service, client):
        if unfit == "another shape":
            shop.bundle(tmp_path / "b", shop.centred())  # gives four outputs, not three
            service.shadow(str(tmp_path / "b"), "")
        else:
            if unfit == "wrong goldens":
                models.affine_bundle(tmp_path / "b", shop.FLOAT, wrong=True)
            with pytest.raises(JobError):
                service.shadow(str(tmp_path / "b"), "")
        assert np.allclose(output(client.infer(X)), models.affine(X), atol=1e-5)
        if unfit == "another shape":
            wait_until(lambda: service.report()["shadow"]["errors"] == {"output_mismatch": 1})
            assert "has shape" in service.report()["shadow"]["reason"]


def test_what_waits_is_answered_at_the_end(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    options = ServingOptions(grpc_socket=str(tmp_path / "g"))
    service = Service(
        str(tmp_path / "a"), "", RuntimeOptions(), name="shoes", serving_options=options
    )
    server = open_inference.Server(service, options)
    client = Client(f"unix:{tmp_path / 'g'}")
    with Held(service, client) as held:
        second = client.stub.ModelInfer.future(request(X), timeout=20)
        wait_until(lambda: len(held.line) == 1)
        ending = threading.Thread(target=server.close)
        ending.start()
        time.sleep(0.05)
        held.lock.release()
        assert held.first.result() is not None
        assert second.result() is not None
        ending.join()
    service.close()
    with service.bound() as served, pytest.raises(JobError, match="is ending"):
        service.infer(served, [X])
    client.channel.close()
