"""The page that says what a rollout would do, as markup."""

from __future__ import annotations

from controller.dashboard.draw.markup import (
    Html,
    Part,
    badge,
    empty,
    facts,
    heading,
    join,
    link,
    reasons,
    section,
    table,
    tag,
)
from controller.dashboard.views.planned import Planned, Wish
from controller.dashboard.views.words import State, Tone


def page(view: Planned) -> Html:
    """All of it."""
    wish = view.wish
    parts: list[Part] = [heading("What a rollout would do"), form(wish)]
    if wish.trouble:
        parts.append(tag("p", wish.trouble, class_="error", role="alert"))
    elif wish.found is None:
        parts.append(empty("Choose a release on the page of its model."))
    else:
        parts += _found(view)
    return join(*parts)


def form(wish: Wish) -> Html:
    """Asks for whom; a plain form, so it works without a script and can be bookmarked."""
    if not wish.release:
        return Html("")
    names = ("", *wish.groups)
    options = [
        tag("option", name or "none", value=name, selected=name == wish.group and "selected")
        for name in names
    ]
    return tag(
        "form",
        tag("input", type="hidden", name="release", value=wish.release),
        tag("div", tag("label", "Which devices (an expression)", for_="plan-where"),
            tag("input", name="where", id="plan-where", value=wish.where, size="40",
                placeholder='label.site == "lab" and online', maxlength="1000")),
        tag("div", tag("label", "Group", for_="plan-group"),
            tag("select", options, name="group", id="plan-group")),
        tag("button", "Preview", type="submit", class_="plain"),
        method="get", action="/preview", class_="choose",
    )  # fmt: skip


def _found(view: Planned) -> list[Part]:
    wish = view.wish
    assert wish.found is not None
    reached = zip(view.waves, view.reached, strict=True)
    head = facts((
        ("release", tag("code", wish.release)), ("for", wish.found.selection),
        *((wave, f"{count} device" + "s" * (count != "1")) for wave, count in reached),
        ("note", reasons(view.notes) if view.notes else ""),
    ))  # fmt: skip
    cohorts = [(c.cohort, c.variant, c.devices, *c.waves) for c in view.cohorts]
    places = [
        (link(p.device, "devices", p.device), p.wave, p.variant,
         badge(State(word="offline", tone=Tone.WARN)) if p.away else
         badge(State(word="online", tone=Tone.GOOD)), p.cohort)
        for p in view.places
    ]  # fmt: skip
    left = [
        (link(out.device, "devices", out.device), out.bar.value.replace("_", " "), out.reason)
        for out in view.left_out
    ]
    return [
        head,
        section("Cohorts", table("Cohorts", ("cohort", "variant", "devices", *view.waves), cohorts),
                note="at most so many, if everybody is there and all goes well"),
        section("Devices", table(
            "Devices", ("device", "wave at the earliest", "variant", "state", "cohort"), places),
            _more(view.more_places)),
        section("Gets nothing", table("Gets nothing", ("device", "why", "because"), left)
                if left else empty("Every device gets something."), _more(view.more_left_out)),
        section("Begin it", empty("Waves, gates and windows as options:", _command(wish))),
    ]  # fmt: skip


def _more(count: int) -> Html:
    return empty(f"{count} more are not shown.") if count else Html("")


def _command(wish: Wish) -> str:
    where = wish.where.replace("'", "'\\''")
    chosen = f" --where '{where}'" * bool(where) + f" --group {wish.group}" * bool(wish.group)
    return f"fitment rollout create {wish.release}{chosen}"
