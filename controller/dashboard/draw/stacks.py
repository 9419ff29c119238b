"""Announced stacks as HTML; nothing is read or decided here."""

from __future__ import annotations

from controller.dashboard.draw.markup import (
    Html,
    badge,
    empty,
    join,
    link,
    moment,
    reasons,
    section,
    table,
    tag,
)
from controller.dashboard.views.stacks import StackRow


def stacks(rows: tuple[StackRow, ...]) -> Html:
    """Stacks that are to come, below the reasons to fit again."""
    title = "Announced stacks"
    if not rows:
        words = "No stack is announced. To prepare for one before it comes:"
        return section(title, empty(words, "fitment stack announce NAME --device LAB"))
    lines = [
        (join(row.name, tag("div", row.profile, class_="note")), badge(row.state),
         link(row.device, "devices", row.device) if row.device else "–", reasons(row.found),
         join(row.ready or "–", reasons(row.late)), row.said or "–", moment(row.at))
        for row in rows
    ]  # fmt: skip
    columns = (
        "stack", "state", "device that has it", "will run", "devices", "waits for, or result",
        "since",
    )  # fmt: skip
    return section(title, table(title, columns, lines))
