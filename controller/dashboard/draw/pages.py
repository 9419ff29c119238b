"""Pages as HTML: views in, markup out; nothing is read or decided here."""

from __future__ import annotations

from urllib.parse import quote

from controller.dashboard.draw.beside import form
from controller.dashboard.draw.charts import pareto
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
    progress,
    reasons,
    section,
    table,
    tag,
    value,
)
from controller.dashboard.views import journal
from controller.dashboard.views.beside import Asked
from controller.dashboard.views.overview import Count, DeviceRow, Matrix, Overview
from controller.dashboard.views.waves import Waves
from controller.dashboard.views.workbench import Candidate, Fit, ReleaseRow, Workbench
from controller.domain import fleet
from fitment.core.deployment import Span


def counts(view: Overview) -> Html:
    """The numbers of the first row."""
    return tag("ul", [tag("li", _count(c), class_=c.tone.value) for c in view.counts],
               class_="counts", aria_label="The fleet in numbers")  # fmt: skip


def _count(count: Count) -> Html:
    inner = join(tag("strong", str(count.number)), " ", tag("span", count.name), " ",
                 tag("small", count.of, class_="note") if count.of else "")  # fmt: skip
    return link(inner, count.page) if count.page else tag("div", inner)


def activity(view: Overview) -> Html:
    """What is under way: triggers, rollouts, fits."""
    rollouts = [
        (link(journal.short(r.id), "rollouts", r.id), r.model or "–", badge(r.state), r.wave,
         join(progress(r.fraction, r.words), " ", tag("small", r.words, class_="note")))
        for r in view.rollouts
    ]  # fmt: skip
    fits = [
        (link(f.name, "models", f.model), f.profile, badge(f.state),
         join(progress(f.fraction, f.step), " ", tag("small", f.step, class_="note")))
        for f in view.fits
    ]  # fmt: skip
    triggers = [
        (t.kind.value.replace("_", " "), link(t.device, "devices", t.device), t.reason,
         moment(t.created_at))
        for t in view.triggers
    ]  # fmt: skip
    return tag(
        "div",
        section("Open triggers", table(
            "Open triggers", ("kind", "device", "because", "since"), triggers
        ) if triggers else empty("Nothing asks for another fit.")),
        section("Rollouts under way", table(
            "Rollouts under way", ("rollout", "model", "state", "wave", "progress"), rollouts
        ) if rollouts else empty("None is under way:", "fitment rollout create RELEASE")),
        section("Fits under way", table(
            "Fits under way", ("model", "profile", "state", "progress"), fits
        ) if fits else _no_fit(view)),
        class_="under",
    )  # fmt: skip


def _no_fit(view: Overview) -> Html:
    if not view.has_models:
        return empty("No model is registered yet:", "fitment model register fashion_mnist")
    return empty("None runs. Start one:", "fitment fit MODEL")


def devices(view: Overview) -> Html:
    """The fleet's devices."""
    if not view.total:
        return empty("No device is enrolled yet. Make a token for one:", "fitment token create")
    if not view.devices:
        return empty(f"None of {view.total} devices matches.")
    rows = [
        (
            link(d.name, "devices", d.name), badge(d.state),
            join(d.profile or "–", " ", emulated(d.emulated)),
            [tag("div", run) for run in d.runs] or "nothing yet",
            _seen(d),
        )
        for d in view.devices
    ]  # fmt: skip
    columns = ("device", "state", "profile", "runs", "last seen")
    more = view.matching - len(view.devices)
    tail = empty(f"{more} more match; narrow the filter to see them.") if more else Html("")
    return join(table("Devices", columns, rows), tail)


def _seen(row: DeviceRow) -> Html:
    notes = tag("div", f"{row.notes} notes", class_="note") if row.notes else ""
    return join(moment(row.last_seen), notes)


def matrix(view: Matrix) -> Html:
    """How many devices of a profile run a variant."""
    if not view.profiles:
        return empty("No device has reported yet. On the device:", "fitment-agent run")
    rows: list[list[Part]] = [
        [
            join(profile, " ", emulated(profile in view.emulated)),
            *(_cell(view.cells.get((profile, name), 0)) for name in view.variants),
        ]
        for profile in view.profiles
    ]
    shown = table("Devices by profile and variant", ("profile", *view.variants), rows)
    return tag("div", shown, class_="matrix")


def _cell(number: int) -> Html:
    return tag("strong", str(number)) if number else tag("span", "·", class_="nil", title="none")


def models(found: tuple[fleet.ModelVersion, ...]) -> Html:
    """All models."""
    if not found:
        return empty("No model is registered yet:", "fitment model register fashion_mnist")
    rows = [
        (link(f"{m.name} {m.version}", "models", m.id), moment(m.registered_at),
         journal.short(m.digest))
        for m in reversed(found)
    ]  # fmt: skip
    return table("Models", ("model", "registered", "digest"), rows)


def model(view: Workbench) -> Html:
    """A model's page."""
    head = facts((
        ("fp32 accuracy", value(view.accuracy)), ("fp32 file", value(view.size)),
        ("budget", reasons(view.budget) or "none asked"),
        *((f"budget on {profile}", reasons(b)) for profile, b in view.profile_budgets),
        ("registered", moment(view.registered_at)),
    ))  # fmt: skip
    fits = [_fit(f) for f in view.fits]
    releases = [_release(r) for r in view.releases]
    command = f"fitment release create {view.name}"
    return join(
        heading(f"{view.name} {view.version}"), head,
        section("Fits", fits or empty(
            "It was not fitted yet. For every cohort of the fleet:", f"fitment fit {view.name}")),
        section("Compare two variants", form(_two(view), model=view.id),
                note="as devices measured them") if len(view.variants) > 1 else "",
        section("Releases", releases or empty("None yet:", command)),
    )  # fmt: skip


def _two(view: Workbench) -> Asked:
    """The chosen one against the next, to begin with."""
    first = next((c.name for f in view.fits for c in f.candidates), view.variants[0])
    other = next(name for name in view.variants if name != first)
    return Asked(a=other, b=first, names=view.variants)


def _fit(view: Fit) -> Html:
    title = tag("h3", view.profile, " ", emulated(view.emulated), " ", badge(view.state))
    parts: list[Part] = [title]
    if view.running:
        parts.append(tag("p", progress(view.fraction, view.step), " ", view.step))
    if view.error:
        parts.append(tag("p", view.error, class_="error"))
    parts.append(facts((
        ("cohort", view.cohort),
        ("began", moment(view.created_at)),
        ("from the cache", "yes: the same fit was done before" * view.cached),
        ("asked by", join("a trigger: ", link("triggers", "triggers")) if view.trigger else ""),
    )))  # fmt: skip
    if view.reason:
        taken = [c.name for c in view.candidates if c.why == view.reason]
        parts.append(
            tag("p", tag("strong", taken[0] if taken else "None chosen"), ": ", view.reason)
        )
    parts += [tag("p", note, class_="note") for note in view.remarks]
    if view.candidates:
        parts += [pareto(view.bubbles, view.unplaced), _candidates(view)]
    if view.schemes:
        told = tag("summary", "Why these schemes")
        parts.append(tag("details", told, reasons(view.schemes)))
    return tag("article", parts, class_="fit")


def _candidates(view: Fit) -> Html:
    columns = [
        "candidate", "judgement", "accuracy", "guard set", "agreement", "file", "on the wire",
        "predicted", "measured on a device",
    ]  # fmt: skip
    rows = [_candidate(c, told=view.reason) for c in view.candidates]
    if not all(c.host.missing for c in view.candidates):
        columns.append("on the controller")
        rows = [[*row, value(c.host)] for row, c in zip(rows, view.candidates, strict=True)]
    return table(f"Candidates for {view.profile}", columns, rows)


def _candidate(c: Candidate, told: str) -> list[Part]:
    why = "reason above" if c.why == told else c.why
    judged = join(badge(c.state), tag("div", why, class_="note"))
    name = join(tag("div", c.name), tag("small", c.runtime, class_="note"))
    return [
        name, judged, value(c.accuracy), value(c.guard), value(c.agreement), value(c.file),
        value(c.wire), value(c.predicted), value(c.measured),
    ]  # fmt: skip


def _release(view: ReleaseRow) -> Html:
    title = tag("h3", f"counter {view.counter} ", badge(view.state))
    rows = [(key, name, why) for key, name, why in view.entries]
    gone = [join(link(journal.short(key), "rollouts", key), " ", badge(s)) for key, s in view.rollouts]  # noqa: E501  # fmt: skip
    waiting = "waits" in view.state.word
    command = f"fitment {'release approve' if waiting else 'rollout create'} {view.id}"
    way = tag("p", "Rollouts: ", [join(part, " ") for part in gone]) if gone else (
        empty("Not rolled out:", command)
    )  # fmt: skip
    plan = tag("a", "What a rollout would do", href=f"/preview?release={quote(view.id, safe='')}")
    return tag(
        "article", title, tag("p", tag("code", view.id), " ", moment(view.created_at), " ", plan),
        table(f"Release {view.counter}", ("cohort", "variant", "because"), rows), way,
        class_="fit",
    )  # fmt: skip


def rollouts(view: Overview) -> Html:
    """All rollouts."""
    if not view.rollouts:
        return empty("There is no rollout yet:", "fitment rollout create RELEASE")
    rows = [
        (link(journal.short(r.id), "rollouts", r.id), r.model or "–", badge(r.state), r.wave,
         join(progress(r.fraction, r.words), " ", tag("small", r.words, class_="note")),
         moment(r.created_at))
        for r in view.rollouts
    ]  # fmt: skip
    columns = ("rollout", "model", "state", "wave", "progress", "created")
    return table("Rollouts", columns, rows)


def rollout(view: Waves) -> Html:
    """A rollout's page, without its buttons."""
    steps = [
        (f"wave {w.number}", badge(w.state), w.share, str(w.admitted),
         f"{w.committed} of {w.ended}", w.gate or "–")
        for w in view.waves
    ]  # fmt: skip
    columns = ("wave", "state", "share", "admitted", "committed of ended", "gate")
    rows = [
        (
            join(link(d.device, "devices", d.device), " ", emulated(d.emulated)), str(d.wave),
            d.variant, join(badge(d.state), _window(d.window), reasons(d.reasons)), value(d.p50),
            value(d.ratio),
            value(d.agreement), moment(d.since),
        )
        for d in view.devices
    ]  # fmt: skip
    of_devices = (
        "device", "wave", "variant", "state", "median", "against before", "agreement", "since",
    )  # fmt: skip
    return join(
        section("Waves", table("Waves", columns, steps)),
        section("Gates", reasons(view.gate), _evidence(view),
                note="what must hold before the next wave"),
        section("Devices", table("Devices of this rollout", of_devices, rows) if rows else empty(
            "No device was admitted yet. An agent that runs is admitted in its wave:",
            "fitment-agent run")),
        section("Decisions", reasons(view.reasons) or empty("None yet.")),
    )  # fmt: skip


def _window(found: Span | None) -> Html:
    """When a device that waits may switch."""
    if found is None:
        return Html("")
    opens, closes = moment(found.opens_unix), moment(found.closes_unix)
    return tag("p", "window from ", opens, " to ", closes, class_="note")


def _evidence(view: Waves) -> Html:
    """What each gate was judged on."""
    rows = [
        (g.cohort, g.gate, badge(g.state), value(g.estimate), value(g.bet), value(g.samples),
         g.reason)
        for g in view.gates
    ]  # fmt: skip
    columns = ("cohort", "gate", "state", "estimate", "bet against", "devices", "because")
    said = tag("p", view.exposure, class_="note") if view.exposure else ""
    return join(table("Evidence of the gates", columns, rows) if rows else "", said, _field(view))


def _field(view: Waves) -> Html:
    """How devices answered by labels, new beside old beside the control group."""
    rows = [(f.devices, f.slice, value(f.accuracy), f.labels, f.must_pass) for f in view.field]
    columns = ("devices", "slice", "accuracy", "labels", "must pass")
    return table("Answers in the field, by labels", columns, rows) if rows else Html("")


def rollout_head(view: Waves) -> Html:
    """A rollout's title and facts."""
    title = heading(f"{view.slot} rollout", " ", badge(view.state))
    return join(title, facts((
        ("rollout", tag("code", view.id)),
        ("model", link(view.slot, "models", view.model) if view.model else "–"),
        ("release", tag("code", view.release)), ("for", view.selector),
        ("switches in", reasons(view.windows) if view.windows else ""),
        ("deadline", view.deadline), ("soak", view.soak), ("created", moment(view.created_at)),
        ("asked by", join("a trigger: ", link("triggers", "triggers")) if view.trigger else ""),
        ("goes back to", view.revert_release), ("still away", ", ".join(view.pending)),
        ("control group", view.control), ("asks", view.asks),
    )))  # fmt: skip


def triggers(rows: tuple[journal.TriggerRow, ...]) -> Html:
    """Reasons to fit again."""
    if not rows:
        return empty("Nothing has asked for another fit. What runs and how it fares:",
                     "fitment status")  # fmt: skip
    lines = [
        (t.kind, badge(t.state), join(link(t.device, "devices", t.device), _more(t.more)),
         link(t.model_name, "models", t.model), t.reason,
         join(t.result or "–", " ", link("rollout", "rollouts", t.rollout) if t.rollout else ""),
         moment(t.at))
        for t in rows
    ]  # fmt: skip
    columns = ("kind", "state", "device", "model", "because", "what came of it", "since")
    return table("Triggers", columns, lines)


def _more(devices: int) -> str:
    return f" and {devices} more" if devices > 0 else ""


def tickets(rows: tuple[journal.TicketRow, ...]) -> Html:
    """Devices that do worse than their kind."""
    if not rows:
        return empty("No device does worse than its kind. Closed tickets:",
                     "fitment ticket list --all")  # fmt: skip
    lines = [
        (link(t.device, "devices", t.device), badge(t.state),
         join(t.summary, tag("div", t.numbers, class_="note")), reasons(t.causes),
         t.result or join("close it: ", tag("code", f"fitment ticket close {t.id}")), moment(t.at))
        for t in rows
    ]  # fmt: skip
    columns = ("device", "state", "what", "probable cause", "what came of it", "since")
    return table("Service tickets", columns, lines)


def audit(view: journal.Audit) -> Html:
    """Decisions and acts, newest first."""
    if not view.total:
        return empty("Nothing happened yet.")
    if not view.rows:
        return empty(f"None of {view.total} entries matches.")
    rows = [
        (moment(r.at), r.actor, r.action,
         link(journal.short(r.subject), *r.page) if r.page else journal.short(r.subject),
         tag("dl", [tag("div", tag("dt", k), tag("dd", journal.short(v))) for k, v in r.details],
             class_="inline"))
        for r in view.rows
    ]  # fmt: skip
    said = f"the newest {len(view.rows)} of {view.matching} entries"
    return join(table("Audit log", ("at", "who", "action", "subject", "details"), rows),
                tag("p", said, class_="note"))  # fmt: skip
