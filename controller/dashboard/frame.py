"""What every page has: title, navigation, theme, and parts that follow changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

from fastapi import Request
from nicegui import ui

from controller.dashboard.desk import Visit
from controller.dashboard.draw.login import THEME_SCRIPT
from controller.dashboard.draw.markup import Html, empty, heading, tag
from controller.errors import FitmentError
from controller.gateway import errors

R = TypeVar("R")

POLL_S = 2.0
FIRST_S = 1.5
"""A page is shown without its records after so long; they follow when they are there."""

PAGES = (("Fleet", "/"), ("Models", "/models"), ("Rollouts", "/rollouts"),
         ("Triggers", "/triggers"), ("Tickets", "/tickets"), ("Pending", "/pending"),
         ("Audit", "/audit"))  # fmt: skip
THEMES = {"system": None, "dark": True, "light": False}
_SWITCH = (
    "document.cookie = 'fitment_theme=' + {theme} + ';path=/;max-age=31536000;samesite=lax';"
    "if ({theme} === 'system') delete document.documentElement.dataset.theme;"
    "else document.documentElement.dataset.theme = {theme};"
)


class Live(ui.element, component="static/live.js"):
    """Markup that the browser changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = ""
        self._props["markup"] = ""

    def show(self, markup: Html) -> None:
        """Show it; nothing is sent when it is what is shown."""
        if markup != self._shown:
            self._shown = str(markup)
            self._props["markup"] = self._shown
            self.update()


class Watch(Generic[R]):
    """Reads records now and again, and draws when they changed."""

    def __init__(
        self,
        visit: Visit,
        read: Callable[[], Awaitable[R]],
        draw: Callable[[R], None],
        trouble: Callable[[Html], None],
    ) -> None:
        self._visit = visit
        self._read = read
        self._draw = draw
        self._trouble = trouble
        self._last: R | None = None

    async def begin(self) -> None:
        """Draw what is there within a moment, and follow from then on."""
        first = asyncio.ensure_future(self.look())
        await asyncio.wait({first}, timeout=FIRST_S)
        if not first.done():
            self._trouble(tag("p", "Loading…", class_="empty", role="status"))
        ui.timer(POLL_S, self.look, immediate=not first.done())

    async def look(self, *, again: bool = False) -> None:
        """Read, and draw if it is not what was drawn."""
        if not await self._visit.is_open():
            ui.navigate.to("/login")
            return
        try:
            records = await self._read()
        except FitmentError as error:
            self._last = None
            self._trouble(_trouble(error))
            return
        if records is not self._last or again:
            self._last = records
            self._draw(records)


def _trouble(error: FitmentError) -> Html:
    return tag("div", heading("This cannot be shown"),
               tag("p", errors.public(error).text, class_="error", role="alert"),
               empty("How the controller fares:", "fitment status"))  # fmt: skip


@contextlib.contextmanager
def frame(request: Request, title: str, here: str) -> Iterator[Visit]:
    """The frame of a page; its content goes into the main part."""
    visit: Visit = request.state.visit
    ui.page_title(f"{title} · Fitment")
    ui.add_head_html(f"<script>{THEME_SCRIPT}</script><link rel='stylesheet' href='/style.css'>")
    chosen = request.cookies.get("fitment_theme", "system")
    _top(chosen if chosen in THEMES else "system", here, visit)
    with ui.element("main").classes("page").props("id=main tabindex=-1"):
        yield visit


def _top(theme: str, here: str, visit: Visit) -> None:
    dark = ui.dark_mode(THEMES[theme])
    with ui.element("header").classes("top"):
        navigation = Live()
        navigation.show(_navigation(here))
        navigation.style("flex: 1 1 auto")
        with ui.element("div").classes("tools"):
            switch = ui.element("button").classes("plain").props("type=button")
            with switch:
                label = ui.label(f"Theme: {theme}")
            _switching(switch, label, dark, theme)
            ui.label(f"{visit.who.name} ({visit.who.role.value})").classes("who")
            leave = Live()
            leave.show(tag("form", tag("button", "Log out", type="submit", class_="plain"),
                           method="post", action="/logout"))  # fmt: skip


def _switching(switch: ui.element, label: ui.label, dark: Any, theme: str) -> None:
    state = {"theme": theme}

    def turn() -> None:
        order = list(THEMES)
        state["theme"] = order[(order.index(state["theme"]) + 1) % len(order)]
        label.set_text(f"Theme: {state['theme']}")
        dark.set_value(THEMES[state["theme"]])
        ui.run_javascript(_SWITCH.replace("{theme}", json.dumps(state["theme"])))

    switch.on("click", turn)


def _navigation(here: str) -> Html:
    links = [
        tag("a", name, href=path, aria_current="page" if path == here else None)
        for name, path in PAGES
    ]
    skip = tag("a", "Skip to the content", href="#main", class_="skip")
    return Html(skip + tag("nav", tag("a", "Fitment", href="/", class_="brand"), links,
                           aria_label="Pages"))  # fmt: skip


def filtering(label: str, changed: Callable[[str], Awaitable[None]]) -> ui.input:
    """A field that narrows a list while one types."""
    field = ui.input(label, on_change=lambda event: changed(str(event.value or "")))
    return field.classes("filter").props("dense outlined clearable debounce=250 type=search")
