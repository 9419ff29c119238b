"""Statistics of serving as columns."""

from __future__ import annotations

import math
from pathlib import Path

from agent import served


def test_what_is_not_known_is_not_a_number() -> None:
    row = served.flat("shoes", {"requests": 0, "errors": 3, "latency": None, "serving": {}})
    assert (row["serving.shoes.requests"], row["serving.shoes.errors"]) == (0.0, 3.0)
    assert math.isnan(row["serving.shoes.latency_p50_ms"])
    assert math.isnan(row["serving.shoes.samples_a_run"])


def test_an_input_that_nobody_sent_yet_has_its_columns() -> None:
    row = served.flat("shoes", {"serving": {"inputs": {"x": None}, "runs": 4, "samples": 10}})
    assert row["serving.shoes.samples_a_run"] == 2.5
    assert math.isnan(row["serving.shoes.input.x.drift"])


def test_the_mix_of_predictions_is_a_column_a_class() -> None:
    row = served.flat("shoes", {"serving": {"predictions": {"0": 0.25, "rest": 0.75}}})
    mix = {key: value for key, value in row.items() if "predicted" in key}
    assert mix == {"serving.shoes.predicted.0": 0.25, "serving.shoes.predicted.rest": 0.75}


def test_a_socket_that_nobody_listens_on_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "shoes.sock").touch()
    assert served.columns(tmp_path) == {}
    assert served.columns(tmp_path / "not there") == {}
