"""Samples: tokens, and several named inputs as one array that is cut like any other."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from controller.catalog import check, samples, workload
from controller.errors import WorkloadError

Writer = Callable[..., Path]
SHAPES = {"audio": (1, 4), "state": (2, 1, 3), "rate": ()}


@dataclass
class Entry:
    """As onnxruntime describes an input."""

    name: str
    type: str
    shape: tuple[int | str, ...]


ENTRIES = [
    Entry("audio", "tensor(float)", ("batch", 4)),
    Entry("state", "tensor(float)", (2, "batch", 3)),
    Entry("rate", "tensor(int64)", ()),
]


def given(count: int = 5) -> dict[str, np.ndarray]:
    return {
        "rate": np.full(count, 16_000),
        "audio": np.arange(4.0 * count).reshape(count, 1, 4),
        "state": np.ones((count, 2, 1, 3), np.float32),
    }


def test_named_inputs_become_records_and_feeds_of_their_own_types() -> None:
    made = samples.stored("w", "test", given(), SHAPES)
    assert made.shape == (5,)
    assert samples.names(made) == ("audio", "state", "rate")
    feed = samples.feed(ENTRIES, made[2:3])
    assert {n: (v.dtype.name, v.shape) for n, v in feed.items()} == {
        "audio": ("float32", (1, 4)), "state": ("float32", (2, 1, 3)), "rate": ("int64", ()),
    }  # fmt: skip
    assert feed["audio"].tolist() == [[8.0, 9.0, 10.0, 11.0]]
    assert samples.run_size(ENTRIES, made, 256) == 1


def test_records_are_written_without_pickling() -> None:
    made = samples.stored("w", "test", given(), SHAPES)
    held = io.BytesIO()
    np.save(held, made, allow_pickle=False)
    held.seek(0)
    assert np.array_equal(np.load(held, allow_pickle=False), made)


def test_digests_see_a_change_of_one_input_and_of_a_name() -> None:
    labels = np.zeros(5)

    def digest(arrays: dict[str, np.ndarray]) -> str:
        return check.split_digest(workload.Split(inputs=samples.packed(arrays), labels=labels))

    other = given()
    other["state"][3, 1, 0, 2] = 7.0
    renamed = {{"rate": "hertz"}.get(n, n): values for n, values in given().items()}
    assert len({digest(given()), digest(other), digest(renamed)}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": None}, "a dict of arrays is needed, one each for audio, state, rate"),
        ({"audio": np.zeros((5, 4))}, r"'audio' of shape \(5, 4\); expected \(N, 1, 4\)"),
        ({"rate": np.zeros(3)}, r"inputs of \[3, 5\] samples"),
        ({"state": np.zeros((5, 2, 1, 3), complex)}, "complex128 'state'"),
    ],
)
def test_named_inputs_that_do_not_fit(change: dict[str, object], words: str) -> None:
    wrong = {n: v for n, v in {**given(), **change}.items() if v is not None}
    with pytest.raises(WorkloadError, match=words):
        samples.stored("w", "test", wrong, SHAPES)


def test_a_model_with_other_inputs_is_said_by_name() -> None:
    made = samples.stored("w", "test", given(), SHAPES)
    with pytest.raises(WorkloadError, match="the inputs audio; `input_shape` names audio, state"):
        samples.feed(ENTRIES[:1], made[:1])
    with pytest.raises(WorkloadError, match="one without a name"):
        samples.feed(ENTRIES, np.zeros((1, 4), np.float32))


def test_an_output_without_a_batch_axis_is_a_row() -> None:
    assert samples.rows(np.zeros((1, 7)), 1).shape == (1, 7)
    assert samples.rows(np.zeros((3, 7)), 1).shape == (1, 3, 7)
    assert samples.rows(np.zeros(()), 1).shape == (1,)


def test_tokens_stay_whole_and_are_not_scaled(write: Writer) -> None:
    folder = write(("return inputs, inputs", "return (inputs * 9).astype(np.int64), inputs"))
    loaded = workload.load(folder)
    stored = loaded.data("test").inputs
    assert stored.dtype == np.int64
    assert loaded.real(stored) is stored
    scaled = write(
        ("return inputs, inputs", "return (inputs * 9).astype(np.int64), inputs"),
        extra="input_scale = 0.5",
    )
    with pytest.raises(WorkloadError, match="not for tokens"):
        workload.load(scaled).data("test")


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"positive": "ham", "false_positive_rate_max": 0.1}, "'positive' is one of `labels`"),
        ({"positive": 0}, "has the keys"),
        ({"positive": 0, "false_positive_rate_max": 1.5}, "a share between 0 and 1"),
    ],
)
def test_an_operating_point_that_makes_no_sense(
    write: Writer, point: dict[str, object], words: str
) -> None:
    with pytest.raises(WorkloadError, match=words):
        workload.load(write(extra=f"operating_point = {point!r}"))


def test_an_operating_point_names_its_class(write: Writer) -> None:
    extra = 'labels = ["ham", "spam"]\n'
    extra += 'operating_point = {"positive": "spam", "false_positive_rate_max": 0.01}'
    found = workload.load(write(extra=extra)).detector
    assert found == workload.Detector(positive=1, name="spam", false_positive_rate_max=0.01)
