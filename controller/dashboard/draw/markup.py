"""HTML from values: everything is escaped unless it was made here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from controller.dashboard.views.words import State, Value

_VOID = frozenset({"input", "br", "circle", "line", "path", "rect", "polyline", "meta", "link"})


class Html(str):
    """Markup that was made from escaped parts."""

    __slots__ = ()


Part = str | Sequence["Part"]
"""Text, markup, or several of them."""


def tag(name: str, /, *parts: Part, **attributes: object) -> Html:
    """One element. ``class_`` is ``class``, and ``data_at`` is ``data-at``; False is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not False and value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>" if name not in _SVG else f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(*parts)}</{name}>")


_SVG = frozenset({"circle", "line", "path", "rect", "polyline"})


def join(*parts: Part) -> Html:
    """Parts after one another; plain text is escaped."""
    made = []
    for part in parts:
        if isinstance(part, Html):
            made.append(str(part))
        elif isinstance(part, str):
            made.append(escape(part))
        else:
            made.append(str(join(*part)))
    return Html("".join(made))


def link(text: Part, *path: str, **attributes: object) -> Html:
    """A link to a page of ours; each piece of its path is quoted."""
    return tag("a", text, href="/" + "/".join(quote(p, safe="") for p in path), **attributes)


def badge(state: State) -> Html:
    """A state with its word."""
    return tag("span", state.word, class_=f"badge {state.tone.value}")


def emulated(flag: bool) -> Html:
    """The mark of a host that stands in for a board."""
    mark = tag("span", "emulated", class_="badge emulated", title="A host that stands in for it")
    return mark if flag else Html("")


def value(found: Value) -> Html:
    """A quantity with its note; a missing one is quiet and says why."""
    note = tag("small", found.note, class_="note") if found.note else Html("")
    return tag("span", tag("span", found.text, class_="v"), " " if found.note else "", note,
               class_="value missing" if found.missing else "value")  # fmt: skip


def moment(at: float, *, empty: str = "never") -> Html:
    """A moment, in UTC; the browser turns it into its own zone and into how long ago."""
    if not at:
        return tag("span", "–", " ", tag("small", empty, class_="note"), class_="value missing")
    text = dt.datetime.fromtimestamp(at, tz=dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    return tag("time", f"{text} UTC", datetime=f"{text.replace(' ', 'T')}Z", data_at=f"{at:.0f}")


def progress(fraction: float, label: str) -> Html:
    """How far something is, for eyes and screen readers."""
    share = min(1.0, max(0.0, fraction))
    return tag("progress", f"{share:.0%}", max="1", value=f"{share:.3f}", aria_label=label)


def facts(pairs: Iterable[tuple[str, Part]]) -> Html:
    """Names and values; empty values are left out."""
    rows = [tag("div", tag("dt", name), tag("dd", shown)) for name, shown in pairs if shown]
    return tag("dl", rows, class_="facts")


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Part]]) -> Html:
    """A table that becomes a list of cards on a narrow screen; the first column is its head."""
    head = tag("tr", [tag("th", name, scope="col") for name in columns])
    body = []
    for row in rows:
        cells = [tag("th", row[0], scope="row")]
        cells += [
            tag("td", cell, data_label=name)
            for name, cell in zip(columns[1:], row[1:], strict=True)
        ]
        body.append(tag("tr", cells))
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body)),
        class_="scroll", tabindex="0", role="region", aria_label=caption,
    )  # fmt: skip


def empty(text: str, command: str = "") -> Html:
    """Nothing is there, and the next command to type."""
    typed = tag("code", command) if command else Html("")
    return tag("p", text, " " if command else "", typed, class_="empty")


def section(title: str, *parts: Part, note: str = "") -> Html:
    """A headed part of a page."""
    extra = tag("small", note, class_="note") if note else Html("")
    return tag("section", tag("h2", title, " ", extra), *parts)


def heading(title: Part, *more: Part) -> Html:
    """The page's title."""
    return tag("div", tag("h1", title), *more, class_="title")


def reasons(texts: Sequence[str]) -> Html:
    """Reasons, one a line."""
    if not texts:
        return Html("")
    return tag("ul", [tag("li", text) for text in texts], class_="reasons")
