"""Devices that ask to be let in, as HTML."""

from __future__ import annotations

from controller.dashboard.draw.markup import (
    Html,
    Part,
    empty,
    facts,
    heading,
    link,
    moment,
    section,
    table,
    tag,
)
from controller.dashboard.views.pending import Pending, Waiting


def head(view: Pending, *, open_: bool) -> Html:
    """The page's title, and what to do where nobody waits."""
    if view.waiting:
        words: Part = "Compare the code with what the device shows before you answer."
        return Html(heading("Pending devices") + tag("p", words))
    if not open_:
        text = "Devices come in by token only. To let them ask, set enrolment_by_approval; or:"
        return Html(heading("Pending devices") + empty(text, "fitment token create"))
    text = "No device asks to be let in. On one:"
    command = "fitment-agent enroll --controller HOST:PORT"
    return Html(heading("Pending devices") + empty(text, command))


def applicant(row: Waiting) -> Html:
    """One that waits."""
    return Html(
        tag("h2", row.name)
        + facts((
            ("code", tag("code", row.code)), ("asked", moment(row.asked_at)),
            ("last asked", moment(row.seen_at)),
        ))
    )  # fmt: skip


def answered(view: Pending) -> Html:
    """Those that were answered."""
    if not view.answered:
        return Html("")
    rows = [(link(a.name, "devices", a.name), a.answer, moment(a.at)) for a in view.answered]
    return section("Answered", table("Answered", ("device", "answer", "when"), rows))
