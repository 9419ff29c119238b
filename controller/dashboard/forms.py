"""What operators fill in or press: it asks first where something follows, and says what failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape

from nicegui import ui

from controller.dashboard.desk import Visit
from controller.dashboard.draw import pending as draw_pending
from controller.dashboard.frame import Live
from controller.dashboard.views.pending import Waiting
from controller.errors import FitmentError
from controller.gateway import errors

Run = Callable[[], Awaitable[object]]


def button(text: str, clicked: Callable[..., object]) -> ui.element:
    """A plain one."""
    made = ui.element("button").classes("plain").props("type=button")
    with made:
        ui.label(text)
    made.on("click", clicked)
    return made


async def carried_out(visit: Visit, run: Run) -> bool:
    """Do it, and say what went wrong; the session is asked for again, for a page may stand long."""
    if not await visit.is_open():
        ui.navigate.to("/login")
        return False
    try:
        await run()
    except FitmentError as error:
        ui.notify(errors.public(error).text, type="negative", timeout=10_000)
        return False
    return True


def asking(
    text: str, *, title: str, words: str, answer: str, visit: Visit, run: Run,
    after: Callable[[], Awaitable[None]], kind: str = "",
) -> None:  # fmt: skip
    """A button that asks before anything is done."""
    with _dialog(title, words) as dialog, ui.element("div").classes("acts"):
        button("Keep as it is", dialog.close).props("autofocus")

        async def confirmed() -> None:
            dialog.close()
            await carried_out(visit, run)
            await after()

        button(answer, confirmed).classes(f"confirm-{kind}")
    button(text, dialog.open)


class _dialog:  # noqa: N801
    """A dialog with a card that things are put into."""

    def __init__(self, title: str, words: str) -> None:
        self._dialog = ui.dialog()
        with self._dialog:
            self._card = ui.card().classes("ask").props("role=alertdialog")
        with self._card:
            told = f"<h2>{escape(title)}</h2><p>{escape(words)}</p>"
            ui.html(told, sanitize=False)

    def __enter__(self) -> ui.dialog:
        self._card.__enter__()
        return self._dialog

    def __exit__(self, *given: object) -> None:
        self._card.__exit__(*given)


def note(visit: Visit, device: str, after: Callable[[], Awaitable[None]]) -> None:
    """A field for something that is to stay with a device."""
    with ui.element("div").classes("note-form"):
        field = ui.textarea("Write a note about this device")
        field.classes("filter").props("outlined autogrow maxlength=4000")

        async def send() -> None:
            text = str(field.value or "")
            if await carried_out(visit, lambda: visit.desk.note(visit.who, device, text)):
                field.set_value("")
                await after()

        button("Keep the note", send)


def applicant(visit: Visit, row: Waiting, after: Callable[[], Awaitable[None]]) -> None:
    """One device that waits, and what may be answered."""
    with ui.element("article").classes("fit").props(f'aria-label="{escape(row.name, quote=True)}"'):
        Live().show(draw_pending.applicant(row))
        if not row.may:
            return
        with ui.element("div").classes("acts"):
            _approval(visit, row, after)
            asking(
                "Refuse", title=f"Refuse '{row.name}'?", answer="Refuse it", visit=visit,
                words="Its key is told so for a day; a device with another key may ask meanwhile.",
                run=lambda: visit.desk.reject(visit.who, row.name), after=after, kind="cancel",
            )  # fmt: skip


def _approval(visit: Visit, row: Waiting, after: Callable[[], Awaitable[None]]) -> None:
    """The code is typed as the device shows it: a click alone compares nothing."""
    words = (
        "Type the code that the device itself shows. Whoever shows another code is another device,"
        " whatever name it gives."
    )
    with _dialog(f"Let '{row.name}' in?", words) as dialog:
        field = ui.input("Code on the device").classes("filter").props("outlined dense autofocus")

        async def confirmed() -> None:
            code = str(field.value or "")
            answer = lambda: visit.desk.approve(visit.who, row.name, code)  # noqa: E731
            if await carried_out(visit, answer):
                dialog.close()
                await after()

        with ui.element("div").classes("acts"):
            button("Keep it waiting", dialog.close)
            button("Let it in", confirmed).classes("confirm-resume")
        field.on("keydown.enter", confirmed)
    button("Approve", dialog.open)
