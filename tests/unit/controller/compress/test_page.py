"""The page of a fit: complete, escaped, and in need of nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from controller.compress import plot
from controller.compress.page import page


def row(name: str, ms: float | None, accuracy: float, **more: Any) -> dict[str, Any]:
    reason = "keeps to the budget" if ms is not None else "it was not timed"
    return {
        "name": name, "runtime": "onnx", "accuracy": accuracy, "agreement": 0.99, "flips": None,
        "accuracy_interval": [accuracy - 0.01, accuracy + 0.01], "guard_accuracy_drop": 0.01,
        "integer_coverage": None, "file_bytes": 1000, "wire_bytes": 900, "chosen": False,
        "reason": reason, "slices": [],
        "latency": {
            "value": ms, "unit": "ms", "kind": "measured", "verdict": "valid" if ms else None,
            "reason": reason,
        },
        **more,
    }  # fmt: skip


def report(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "profile": "generic-x86_64", "fp32_accuracy": 0.9, "fp32_bytes": 4000, "closest": "",
        "variants": list(rows), "seconds": 3.0, "machine": "x86_64", "schemes": {}, "skipped": {},
        "failed": {}, "notes": [], "steps": [["fp32", 1.0]], **more,
    }  # fmt: skip


class Reader(HTMLParser):
    """What tags there are, and whether they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def point(x: float, y: float) -> plot.Point:
    return plot.Point(
        label="p", group="onnx", x=x, y=y, low=y, high=y, weight=1.0, chosen=False, faint=False,
        words="",
    )  # fmt: skip


def test_every_variant_is_in_picture_and_table() -> None:
    made = page(report(row("fp32", 1.0, 0.9), row("int8", 0.2, 0.89, chosen=True)))
    reader = Reader()
    reader.feed(made)
    assert reader.tags.count("circle") == 2
    assert made.count("<tr") == 3 + made.count("<thead><tr><th>part")
    assert "<strong>int8</strong>" in made
    assert not re.search(r"@[A-Z]+@", made)


def test_it_needs_nothing_from_elsewhere() -> None:
    made = page(report(row("fp32", 1.0, 0.9)))
    assert not re.search(r"https?:|src=|@import|url[(]", made)


def test_names_from_a_workload_are_no_markup() -> None:
    evil = "<script>alert(1)</script>"
    part = {
        "name": evil, "guard_count": 40, "guard_fp32": 0.9, "guard_value": 0.5, "test_count": 9,
        "test_fp32": 0.9, "test_value": 0.5,
    }  # fmt: skip
    made = page(report(row(evil, 1.0, 0.9, slices=[part], chosen=True), failed={evil: evil}))
    assert evil not in made
    assert made.count("<script>") == 1


def test_what_was_not_timed_has_no_point_and_says_why() -> None:
    made = page(report(row("fp32", 1.0, 0.9), row("odd", None, 0.9)))
    assert made.count("<circle") == 1
    assert "it was not timed" in made
    assert "there is no picture" in page(report(row("odd", None, 0.9)))


def test_nothing_within_the_budget_is_said_first() -> None:
    made = page(report(row("fp32", 1.0, 0.9), closest="fp32 came closest: file bytes"))
    assert "Nothing keeps to the budget" in made
    assert "fp32 came closest" in made


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [point(1.0, 90.0), point(0.5, 92.0), point(0.2, 88.0), point(0.3, 88.0)]
    assert [(p.x, p.y) for p in plot.front(points)] == [(0.2, 88.0), (0.5, 92.0)]


def test_ticks_are_round_and_inside() -> None:
    assert plot.ticks(0.04, 0.6) == [0.05, 0.1, 0.2, 0.5]
    assert plot.ticks(3.0, 4.0) == []


def test_points_that_agree_in_everything_can_be_drawn() -> None:
    drawn = plot.scatter([point(0.1, 90.0), point(0.1, 90.0)])
    assert "nan" not in drawn


def test_a_detectors_point_is_told_with_its_intervals() -> None:
    point = {
        "positive": "spam <b>", "threshold": 1.25, "false_positive_rate_max": 0.01,
        "test_false_positive_rate": 0.0136, "test_false_positive_interval": [0.0078, 0.0237],
        "test_recall": 0.855, "test_recall_interval": [0.8175, 0.8859],
        "unfitted_false_positive_rate": 0.05, "unfitted_recall": 0.9,
    }  # fmt: skip
    made = page(report(row("int8", 0.2, 0.9, operating=point)))
    assert "Detects spam &lt;b&gt; from a score of 1.25" in made
    assert "1.36 % false alarms (0.78 % to 2.37 %), 85.50 % found (81.75 % to 88.59 %)" in made
    assert "With fp32's threshold: 5.00 % and 90.00 %" in made
    assert "Detects" not in page(report(row("int8", 0.2, 0.9, operating=None)))


def test_what_passes_left_alone_is_listed_and_folded_away() -> None:
    left = {"int8-u8s8": ["quantize_static: left float: 2 Softmax", "equalize: a < b"]}
    made = page(report(row("int8-u8s8", 1.0, 0.9), left_alone=left))
    assert "<details><summary>Left alone in int8-u8s8: 2</summary>" in made
    assert "<li>quantize_static: left float: 2 Softmax</li><li>equalize: a &lt; b</li>" in made
