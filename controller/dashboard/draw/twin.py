"""A device's page as HTML."""

from __future__ import annotations

from controller.dashboard.draw.charts import sparkline
from controller.dashboard.draw.life import timeline
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
from controller.dashboard.draw.pages import tickets
from controller.dashboard.views import journal
from controller.dashboard.views.twin import HistoryRow, SlotRow, Twin


def head(view: Twin) -> Html:
    """What a device is, and what ails it."""
    told = facts((
        ("profile", value(view.profile)), ("cohort", value(view.cohort)), ("labels", view.labels),
        ("agent", value(view.agent)), ("last seen", moment(view.last_seen)),
        ("enrolled", moment(view.enrolled_at)), ("allowance", reasons(view.allowance)),
        ("orders held", reasons(view.held)),
    ))  # fmt: skip
    return join(
        heading(view.name, " ", badge(view.state), " ", emulated(view.emulated)),
        told,
        section("Service tickets", tickets(view.tickets)) if view.tickets else Html(""),
    )


def notes(view: Twin) -> Html:
    """What operators wrote about a device."""
    rows = [(moment(n.at), n.author, tag("div", n.text, class_="written")) for n in view.written]
    shown = table("Operators' notes, newest first", ("when", "who", "note"), rows)
    return section("Operators' notes", shown if rows else empty("Nobody wrote anything about it."))


def device(view: Twin) -> Html:
    """The rest of a device's page."""
    silent = empty("It has not reported yet. On the device:", "fitment-agent run")
    twins = [
        tag("details", tag("summary", f"{name} ({len(pairs)})"), facts(pairs),
            open=name in {"hardware", "stack"} and "open")
        for name, pairs in view.facets
    ]  # fmt: skip
    charts = [sparkline(s) for s in view.series]
    older = empty(f"{view.older} older ones are left out.") if view.older else Html("")
    history = join(_history(view), older)
    return join(
        section("Slots", _slots(view)),
        section("Field accuracy", _accuracy(view), note="by labels from the field")
        if view.accuracy else Html(""),
        section("Notes", reasons(view.notes) or empty("The device has nothing to note."),
                note="what the device itself has to say"),
        section("Telemetry", tag("div", charts, class_="sparks") if view.samples else empty(
            "It has sent no sample yet; agents sample every few seconds while they run.")),
        section("History", history if view.history else empty(
            "Nothing was deployed to it yet. Start a rollout:", "fitment rollout create RELEASE")),
        section("Timeline", timeline(view), note="what is on record of it, newest first"),
        section("Twin", tag("div", twins, class_="twin") if twins else silent,
                note="what the device says of itself"),
    )  # fmt: skip


def _accuracy(view: Twin) -> Html:
    rows = [
        (f"{a.variant} of release {journal.short(a.release)}", a.slice or "all answers",
         str(a.labels), value(a.right), str(a.must_wrong), str(a.corrections))
        for a in view.accuracy
    ]  # fmt: skip
    columns = ("variant", "slice", "labels", "right", "must-pass wrong", "corrections")
    return table("Field accuracy by release, newest first", columns, rows)


def _slots(view: Twin) -> Html:
    if not view.slots:
        return empty("It holds no model yet. Fit and roll out one:", "fitment fit MODEL")
    rows = [
        (s.slot, s.name, badge(s.state), _ladder(s), badge(s.golden), value(s.coverage),
         value(s.calibration), s.counter)
        for s in view.slots
    ]  # fmt: skip
    columns = (
        "slot", "variant", "state", "rung", "golden answers", "integer ops", "calibration",
        "counter",
    )  # fmt: skip
    return table("Slots", columns, rows)


def _ladder(row: SlotRow) -> Html:
    """The rung that serves, since when, and what stands ready below it."""
    since = join(" since ", moment(row.rung_since)) if row.rung_since else Html("")
    return join(value(row.rung), since, reasons(row.ladder))


def _history(view: Twin) -> Html:
    rows = [_history_row(h) for h in view.history]
    columns = (
        "when", "variant", "outcome", "median", "p95", "against before", "agreement", "energy",
        "peak memory", "calibration",
    )  # fmt: skip
    return table("Deployments, newest first", columns, rows)


def _history_row(h: HistoryRow) -> tuple[Part, ...]:
    name = join(tag("div", f"{h.slot}: {h.variant}"), link("rollout", "rollouts", h.rollout))
    return (
        moment(h.at), name, join(badge(h.state), reasons(h.reasons)), value(h.p50), value(h.p95),
        value(h.ratio), value(h.agreement), value(h.energy), value(h.memory), value(h.calibration),
    )  # fmt: skip
