"""Markup escapes by default, and says things to those who do not see colours."""

from __future__ import annotations

from controller.dashboard.draw import login, markup
from controller.dashboard.draw.charts import pareto, sparkline
from controller.dashboard.draw.markup import Html, tag
from controller.dashboard.views.twin import Series
from controller.dashboard.views.words import State, Tone, Value
from controller.dashboard.views.workbench import Bubble

BAD = "<script>alert('x')</script>"


def test_text_is_escaped_wherever_it_comes_in() -> None:
    for made in (
        tag("p", BAD), tag("p", [BAD, [BAD]]), tag("p", title=BAD), markup.link(BAD, BAD),
        markup.value(Value(text=BAD, note=BAD)), markup.badge(State(word=BAD, tone=Tone.BAD)),
        markup.facts([(BAD, BAD)]), markup.table(BAD, (BAD, BAD), [(BAD, BAD)]),
        markup.empty(BAD, BAD), markup.reasons([BAD]), markup.section(BAD, BAD, note=BAD),
        sparkline(Series(name=BAD, points=((1.0, 1.0), (2.0, 2.0)), newest=Value(text=BAD))),
        Html(login.page(BAD, BAD)),
    ):  # fmt: skip
        assert "<script>alert" not in made
        assert "&lt;script&gt;" in made or "%3Cscript" in made


def test_markup_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert tag("input", disabled=False, required="") == '<input required="">'
    assert tag("line", x1=1) == '<line x1="1"/>'
    assert tag("th", "n", class_="c", data_label="d") == '<th class="c" data-label="d">n</th>'


def test_a_moment_is_utc_until_the_browser_tells_its_own() -> None:
    assert markup.moment(0.0).count("–") == 1
    made = markup.moment(1_800_000_000.0)
    assert 'datetime="2027-01-15T08:00:00Z"' in made
    assert 'data-at="1800000000"' in made


def test_a_table_is_one_for_a_screen_reader_too() -> None:
    made = markup.table("Things", ("name", "size"), [("a", "1")])
    assert "<caption>Things</caption>" in made
    assert '<th scope="col">size</th>' in made
    assert '<th scope="row">a</th><td data-label="size">1</td>' in made


def test_a_chart_needs_two_points_and_says_its_range() -> None:
    one = Series(name="t", points=((1.0, 4.0),), newest=Value(text="4"))
    assert "<svg" not in sparkline(one)
    two = Series(name="t", points=((0.0, 4.0), (30.0, 6.0)), newest=Value(text="6"))
    assert "4 to 6, 2 samples in 30 s" in sparkline(two)
    flat = Series(name="t", points=((5.0, 4.0), (5.0, 4.0)), newest=Value(text="4"))
    assert "nan" not in sparkline(flat)


def test_the_pareto_picture_names_what_is_chosen() -> None:
    assert "No candidate" in pareto((), 2)
    made = pareto(
        (
            Bubble(name="a", latency_ms=0.1, accuracy=0.9, file_bytes=0, chosen=True, front=True,
                   kind="measured"),
            Bubble(name="b", latency_ms=0.2, accuracy=0.95, file_bytes=9, chosen=False, front=True,
                   kind="measured"),
        ),
        1,
    )  # fmt: skip
    assert "chosen: a" in made
    assert "1 without" in made
    assert "a ✓" in made
    alone = Bubble(name="a", latency_ms=0.1, accuracy=0.9, file_bytes=0, chosen=False, front=True, kind="predicted")  # noqa: E501  # fmt: skip
    assert "nan" not in pareto((alone,), 0)
