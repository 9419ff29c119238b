"""A fit as a page for people: the Pareto picture and every variant with its evidence.

One HTML file that needs nothing else: no script from elsewhere, no font, no network. The picture
is SVG; its points can be hovered, and reached with the keyboard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from controller.compress import picture
from controller.compress.plot import Point, scatter

Row = Mapping[str, Any]
NONE = "–"


def page(report: Row) -> str:
    """The page of a ``variants.json``."""
    rows: Sequence[Row] = report["variants"]
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": f"Fit for {report['profile']}",
        "SUMMARY": _summary(report),
        "PICTURE": scatter(_points_of(rows)),
        "LEGEND": _legend(rows),
        "ROWS": "\n".join(_row(row) for row in rows),
        "SLICES": "\n".join(_slices(row) for row in rows if _has_parts(row)),
        "NOTES": "\n".join(f"<li>{note}</li>" for note in _notes(report)),
    }
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


def png(report: Row) -> bytes:
    """The picture of a ``variants.json`` as a PNG file."""
    title = f"Fit for {report['profile']}: accuracy against latency, area is the transfer"
    return picture.png(_points_of(report["variants"]), title)


def _points_of(rows: Sequence[Row]) -> list[Point]:
    return [_point(row) for row in rows if row["latency"]["value"] is not None]


def _summary(report: Row) -> str:
    chosen = next((row for row in report["variants"] if row["chosen"]), None)
    fp32 = f"fp32: {_percent(report['fp32_accuracy'])}, {_kb(report['fp32_bytes'])} kB."
    if chosen is None:
        return f"<p><strong>Nothing keeps to the budget.</strong> {escape(report['closest'])}</p>"
    return (
        f"<p><strong>{escape(chosen['name'])}</strong> on {escape(chosen['runtime'])}:"
        f" {escape(chosen['reason'])}. {fp32}</p>"
    )


def _legend(rows: Sequence[Row]) -> str:
    """Which colour is which runtime; the same order as the picture's."""
    names = sorted({row["runtime"] for row in rows})
    return " ".join(
        f'<span class="swatch g{i}"></span> {escape(name)}.' for i, name in enumerate(names)
    )


def _point(row: Row) -> Point:
    low, high = row["accuracy_interval"] or (row["accuracy"], row["accuracy"])
    latency = row["latency"]
    return Point(
        label=row["name"],
        group=row["runtime"],
        x=latency["value"],
        y=100 * row["accuracy"],
        low=100 * low,
        high=100 * high,
        weight=row["wire_bytes"],
        chosen=row["chosen"],
        faint=not row["chosen"] and row["reason"] != "keeps to the budget",
        words=(
            f"{row['name']} on {row['runtime']}: {_percent(row['accuracy'])},"
            f" {latency['value']:.3f} ms p50 {latency['kind']} ({latency['verdict']}),"
            f" {_kb(row['wire_bytes'])} kB on the wire. {row['reason']}"
        ),
    )


def _row(row: Row) -> str:
    latency = row["latency"]
    low_high = row["accuracy_interval"]
    between = f" ({100 * low_high[0]:.1f} to {100 * low_high[1]:.1f})" if low_high else ""
    worst = min(
        (s for s in row.get("slices", ())),
        key=lambda s: s["guard_value"] - s["guard_fp32"],
        default=None,
    )
    cells = (
        ("", ("→ " if row["chosen"] else "") + row["name"]),
        ("", row["runtime"]),
        (row["accuracy"], _percent(row["accuracy"]) + between),
        (row["guard_accuracy_drop"], _points(row["guard_accuracy_drop"])),
        (row["agreement"], _percent(row["agreement"])),
        (row.get("flips"), _percent(row.get("flips"))),
        (None if worst is None else worst["guard_fp32"] - worst["guard_value"], _worst(worst)),
        (row["integer_coverage"], NONE if row["integer_coverage"] is None
         else f"{row['integer_coverage']:.2f}"),
        (row["file_bytes"], _kb(row["file_bytes"])),
        (row["wire_bytes"], _kb(row["wire_bytes"])),
        (latency["value"], NONE if latency["value"] is None else f"{latency['value']:.3f}"),
        ("", latency["verdict"] or latency["reason"]),
        ("", row["reason"]),
    )  # fmt: skip
    inner = "".join(f'<td data-key="{_key(k)}">{escape(str(text))}</td>' for k, text in cells)
    return f'<tr class="chosen">{inner}</tr>' if row["chosen"] else f"<tr>{inner}</tr>"


def _key(value: object) -> str:
    """What a column is sorted by; empty sorts by the text."""
    return "" if value in (None, "") else escape(str(value))


def _worst(worst: Row | None) -> str:
    if worst is None:
        return NONE
    return f"{worst['name']} {_points(worst['guard_fp32'] - worst['guard_value'])}"


def _slices(row: Row) -> str:
    """Test and guard figures of all parts, folded away."""
    lines = "".join(
        f"<tr><td>{escape(s['name'])}</td><td>{s['test_count']}</td>"
        f"<td>{_percent(s['test_fp32'])}</td><td>{_percent(s['test_value'])}</td>"
        f"<td>{s['guard_count']}</td><td>{_points(s['guard_fp32'] - s['guard_value'])}</td></tr>"
        for s in row["slices"]
    )
    head = "<tr><th>part<th>test inputs<th>fp32<th>this<th>guard inputs<th>guard drop</tr>"
    return (
        f"<details><summary>{escape(row['name'])} on {escape(row['runtime'])}</summary>"
        f"{_detector(row.get('operating'))}"
        f"<table><thead>{head}</thead><tbody>{lines}</tbody></table></details>"
    )


def _has_parts(row: Row) -> bool:
    return bool(row.get("slices") or row.get("operating"))


def _detector(point: Row | None) -> str:
    """What a detector does at the threshold that was refitted for it, and what it did before."""
    if not point:
        return ""
    alarms, recalls = point["test_false_positive_interval"], point["test_recall_interval"]
    return (
        f"<p>Detects {escape(point['positive'])} from a score of {point['threshold']:.4g}, fitted"
        f" to at most {_percent(point['false_positive_rate_max'])} false alarms on guard inputs."
        f" On test inputs: {_percent(point['test_false_positive_rate'])} false alarms"
        f" ({_between(alarms)}), {_percent(point['test_recall'])} found ({_between(recalls)})."
        f" With fp32's threshold: {_percent(point['unfitted_false_positive_rate'])} and"
        f" {_percent(point['unfitted_recall'])}.</p>"
    )


def _between(interval: Sequence[float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"


def _notes(report: Row) -> Iterator[str]:
    yield f"The fit took {report['seconds']:.0f} s on a {escape(report['machine'])} machine."
    yield "Accuracy, agreement and flips are of the test set, which chooses nothing."
    for runtime, why in report["schemes"].items():
        yield f"Schemes on {escape(runtime)}: {escape(why)}."
    for name, why in report["skipped"].items():
        yield f"Not tried: {escape(name)}, since {escape(why)}."
    for name, why in report["failed"].items():
        yield f"Could not be made: {escape(name)}: {escape(why)}."
    for note in report["notes"]:
        yield escape(str(note))
    for name, lines in report.get("left_alone", {}).items():
        inner = "".join(f"<li>{escape(line)}</li>" for line in lines)
        words = f"Left alone in {escape(name)}: {len(lines)}"
        yield f"<details><summary>{words}</summary><ul>{inner}</ul></details>"
    for name, seconds in report["steps"]:
        yield f"{escape(name)}: {seconds:.1f} s."


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f} %"


def _points(drop: float | None) -> str:
    """A drop as what it does to the figure, in points."""
    return NONE if drop is None else f"{-100 * drop or 0.0:+.2f}"


def _kb(value: float | None) -> str:
    return NONE if value is None else f"{value / 1000:.0f}"
