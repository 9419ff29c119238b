"""The page that sets two variants beside each other, as markup."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.dashboard.draw.markup import (
    Html,
    Part,
    badge,
    empty,
    emulated,
    facts,
    heading,
    join,
    link,
    moment,
    reasons,
    section,
    table,
    tag,
    value,
)
from controller.dashboard.views.beside import Asked, Beside, Evidence, Kind, Mark, SideCell

_W, _ROW, _LEFT, _RIGHT = 440, 30, 84, 24
_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def page(view: Beside) -> Html:
    """All of it."""
    asked = view.asked
    parts: list[Part] = [heading("Two variants beside each other"), form(asked)]
    if asked.trouble:
        parts.append(tag("p", asked.trouble, class_="error", role="alert"))
    elif asked.found is None:
        hint = "Choose two of a model. B is told by A." if asked.names else ""
        parts.append(tag("p", hint, class_="empty") if hint else empty(
            "No fit has made a variant yet:", "fitment fit MODEL"))  # fmt: skip
    else:
        parts.append(_evidence(view.evidence))
        if view.kinds:
            parts.append(section("By kind of device", [_kind(kind) for kind in view.kinds]))
        parts.append(section("Device by device", _devices(view)))
    return join(*parts)


def form(asked: Asked, *, model: str = "") -> Html:
    """Chooses the two; a plain form, so it works without a script and can be bookmarked."""
    if not asked.names:
        return Html("")
    kept = asked.model or model
    hidden = tag("input", type="hidden", name="model", value=kept) if kept else Html("")
    return tag(
        "form", hidden, _choice("a", "A", asked.a, asked.names),
        _choice("b", "B", asked.b, asked.names),
        tag("button", "Compare", type="submit", class_="plain"),
        method="get", action="/compare", class_="choose",
    )  # fmt: skip


def _choice(name: str, label: str, chosen: str, names: Sequence[str]) -> Html:
    offered = names if not chosen or chosen in names else (chosen, *names)
    options = [
        tag("option", one, value=one, selected="selected" if one == chosen else False)
        for one in offered
    ]
    # Not around the list: its entries would become part of what a screen reader calls it.
    key = f"choose-{name}"
    return tag("div", tag("label", label, for_=key), tag("select", options, name=name, id=key))


def _evidence(found: Sequence[Evidence]) -> Html:
    rows = [
        (join(tag("strong", letter), " ", e.name), link(e.model_name, "models", e.model),
         e.runtime, value(e.accuracy), value(e.agreement), value(e.file), value(e.wire),
         tag("code", ", ".join(e.bundles)))
        for letter, e in zip("AB", found, strict=True)
    ]  # fmt: skip
    columns = (
        "variant", "model", "runtime", "accuracy", "agreement", "file", "on the wire", "bundle",
    )  # fmt: skip
    return section("What fits found", table("What fits found of the two", columns, rows),
                   note="on the controller, over the test set")  # fmt: skip


def _kind(kind: Kind) -> Html:
    title = tag("h3", kind.profile, " ", emulated(kind.emulated))
    about = facts((
        ("devices", str(kind.devices)),
        ("left out", f"{kind.left_out} (disturbed measurements)" if kind.left_out else ""),
    ))  # fmt: skip
    rows = [
        (line.name, value(line.a), value(line.b), value(line.change), badge(line.finding),
         line.because)
        for line in kind.lines
    ]  # fmt: skip
    columns = ("quantity", "A", "B", "B by A", "B is", "because")
    return tag("article", title, about, forest(kind.marks),
               table(f"A and B on {kind.profile}", columns, rows), class_="fit")  # fmt: skip


def _devices(view: Beside) -> Html:
    if not view.devices:
        return empty("No device has measured either of them yet:", "fitment rollout create RELEASE")
    rows = [
        (
            join(link(d.device, "devices", d.device), " ", emulated(d.emulated)), d.profile,
            _side(d.a), _side(d.b), value(d.latency), value(d.energy), value(d.agreement),
            value(d.memory),
        )
        for d in view.devices
    ]  # fmt: skip
    columns = (
        "device", "profile", "A, median", "B, median", "latency, B by A", "energy, B by A",
        "agreement, B less A", "peak memory, B by A",
    )  # fmt: skip
    more = f"the first {len(view.devices)} of {view.total} devices"
    said = tag("p", more, class_="note") if view.total > len(view.devices) else Html("")
    return join(table("Both on each device", columns, rows), said)


def _side(cell: SideCell | None) -> Html:
    if cell is None:
        return tag("span", "–", " ", tag("small", "not measured here", class_="note"),
                   class_="value missing")  # fmt: skip
    return join(value(cell.p50), " ", badge(cell.state), reasons(cell.reasons),
                tag("p", "taken ", moment(cell.at), class_="note"))  # fmt: skip


def forest(marks: Sequence[Mark]) -> Html:
    """Ratios on a logarithmic axis with their intervals, and where both are the same."""
    if not marks:
        return Html("")
    ends = [e for m in marks for e in (m.low, m.high, m.value) if e is not None and e > 0]
    least, most = min(0.8, *ends) / 1.15, max(1.25, *ends) * 1.15

    def x(ratio: float) -> float:
        share = math.log(max(ratio, least) / least) / math.log(most / least)
        return _LEFT + share * (_W - _LEFT - _RIGHT)

    height = _ROW * len(marks) + 26
    bottom = height - 20
    parts: list[Part] = []
    for tick in (t for t in _TICKS if least <= t <= most):
        parts.append(tag("line", x1=f"{x(tick):.1f}", x2=f"{x(tick):.1f}", y1=4, y2=bottom,
                         class_="same" if tick == 1.0 else "grid"))  # fmt: skip
        parts.append(tag("text", f"× {tick:g}", x=f"{x(tick):.1f}", y=height - 6,
                         text_anchor="middle"))  # fmt: skip
    for number, mark in enumerate(marks):
        parts += _bar(mark, 4 + _ROW * (number + 0.5), x)
    spoken = "; ".join(_spoken(mark) for mark in marks)
    drawing = tag("svg", tag("title", spoken), parts, viewBox=f"0 0 {_W} {height}", role="img",
                  aria_label=spoken)  # fmt: skip
    note = (
        "B by A; left of the line is less. Medians over devices, with 95 % where six measured it."
    )
    return tag("figure", drawing, tag("figcaption", tag("small", note, class_="note")),
               class_="pareto forest")  # fmt: skip


def _bar(mark: Mark, y: float, x: object) -> list[Part]:
    assert callable(x)
    parts: list[Part] = [tag("text", mark.name, x=0, y=f"{y + 4:.1f}", class_="name")]
    if mark.low is not None and mark.high is not None:
        parts.append(tag("line", x1=f"{x(mark.low):.1f}", x2=f"{x(mark.high):.1f}", y1=f"{y:.1f}",
                         y2=f"{y:.1f}", class_="span"))  # fmt: skip
    parts.append(
        tag("circle", cx=f"{x(mark.value):.1f}", cy=f"{y:.1f}", r=5, class_="bubble front")
    )
    return parts


def _spoken(mark: Mark) -> str:
    words = f"{mark.name} × {mark.value:.3f}"
    if mark.low is None or mark.high is None:
        return words
    return f"{words}, {mark.low:.3f} to {mark.high:.3f}"
