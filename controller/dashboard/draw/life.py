"""What is on record of one device, as markup."""

from __future__ import annotations

from controller.dashboard.draw.markup import Html, empty, join, moment, table, tag
from controller.dashboard.views import journal
from controller.dashboard.views.twin import EventRow, Twin


def timeline(view: Twin) -> Html:
    """Its life, newest first."""
    if not view.timeline:
        command = f"fitment device note {view.name} TEXT"
        return empty("Nothing is on record of it. Write something:", command)
    rows = [(moment(e.at), e.kind, join(tag("div", e.what), _details(e))) for e in view.timeline]
    return table("Timeline", ("when", "kind", "what"), rows)


def _details(row: EventRow) -> Html:
    """Names and values in small print; numbers that nobody reads are cut short."""
    pairs = [tag("div", tag("dt", k), tag("dd", journal.short(v))) for k, v in row.details]
    return tag("dl", pairs, class_="inline") if pairs else Html("")
