"""The login page: plain HTML that needs neither a session nor a script."""

from __future__ import annotations

from controller.dashboard.draw.markup import Html, tag

THEME_SCRIPT = (
    "(()=>{const m=document.cookie.match(/(?:^|; )fitment_theme=(light|dark)/);"
    "if(m)document.documentElement.dataset.theme=m[1]})()"
)
"""Applies the chosen theme before anything is painted."""


def page(after: str, wrong: str = "") -> str:
    """The form; ``after`` is where it leads, ``wrong`` why it is shown again."""
    form = tag(
        "form",
        tag("h1", "Fitment"),
        tag("p", wrong, class_="error", role="alert") if wrong else "",
        tag("label", "Operator token", for_="token"),
        tag("input", type="password", id="token", name="token", required="", autofocus="",
            autocomplete="current-password"),
        tag("input", type="hidden", name="next", value=after),
        tag("button", "Log in", type="submit"),
        tag("p", "On the controller's machine it is shown by", class_="note"),
        tag("code", "cat fitment-data/operator.token"),
        tag("p", "(or in the data directory that you gave to ", tag("code", "fitment serve"), ")",
            class_="note"),
        method="post", action="/login", class_="login",
    )  # fmt: skip
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>Log in · Fitment</title>"
        '<link rel="icon" href="data:,">'
        '<link rel="stylesheet" href="/style.css">'
        f"<script>{THEME_SCRIPT}</script>"
    )
    body = tag("main", form)
    return str(
        Html(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>')
    )
