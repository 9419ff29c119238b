"""The pages: each reads records, makes a view, and shows it."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request
from nicegui import ui

from controller.dashboard import forms
from controller.dashboard.desk import (
    ANSWERS_APPLICANTS,
    CHANGES_ROLLOUTS,
    WRITES_NOTES,
    Applying,
    Journal,
    Visit,
)
from controller.dashboard.draw import beside as draw_beside
from controller.dashboard.draw import pages as draw
from controller.dashboard.draw import pending as draw_pending
from controller.dashboard.draw import planned as draw_planned
from controller.dashboard.draw import twin as draw_twin
from controller.dashboard.draw.markup import Html, heading, section
from controller.dashboard.draw.stacks import stacks
from controller.dashboard.frame import Live, Watch, filtering, frame
from controller.dashboard.views import journal
from controller.dashboard.views.beside import Asked, beside
from controller.dashboard.views.overview import FleetRecords, overview
from controller.dashboard.views.pending import Waiting, pending
from controller.dashboard.views.planned import Wish, planned
from controller.dashboard.views.stacks import stack_rows
from controller.dashboard.views.twin import DeviceRecords, twin
from controller.dashboard.views.waves import ACTS, RolloutRecords, waves
from controller.dashboard.views.workbench import ModelRecords, workbench
from controller.domain import fleet


@ui.page("/")
async def show_fleet(request: Request) -> None:
    """The fleet at a glance."""
    with frame(request, "Fleet", "/") as visit:
        wanted = {"text": ""}
        top = Live()

        async def narrow(text: str) -> None:
            wanted["text"] = text
            await watch.look(again=True)

        field = filtering("Find devices", narrow)
        listed = Live()

        def show(records: FleetRecords) -> None:
            view = overview(records, wanted["text"])
            top.show(Html(
                heading("Fleet") + draw.counts(view)
                + section("Profile × variant", draw.matrix(view.matrix))
                + draw.activity(view) + section("Devices")
            ))  # fmt: skip
            field.set_visibility(view.total > 0)
            listed.show(draw.devices(view))

        watch = Watch(visit, visit.desk.glance, show, top.show)
        await watch.begin()


@ui.page("/devices/{name}")
async def show_device(request: Request, name: str) -> None:
    """One device."""
    with frame(request, name, "/devices") as visit:
        head, kept = Live(), Live()
        form = ui.element("div")
        page = Live()

        def show(records: DeviceRecords) -> None:
            view = twin(records)
            head.show(draw_twin.head(view))
            kept.show(draw_twin.notes(view))
            page.show(draw_twin.device(view))
            form.set_visibility(True)

        watch = Watch(visit, lambda: visit.desk.device(name), show, head.show)
        form.set_visibility(False)
        if visit.may(WRITES_NOTES):
            with form:
                forms.note(visit, name, lambda: watch.look(again=True))
        await watch.begin()


@ui.page("/models")
async def show_models(request: Request) -> None:
    """All models."""
    with frame(request, "Models", "/models") as visit:
        page = Live()

        def show(found: tuple[fleet.ModelVersion, ...]) -> None:
            page.show(Html(heading("Models") + draw.models(found)))

        await Watch(visit, visit.desk.models, show, page.show).begin()


@ui.page("/models/{key}")
async def show_model(request: Request, key: str) -> None:
    """One model."""
    with frame(request, "Model", "/models") as visit:
        page = Live()

        def show(records: ModelRecords) -> None:
            page.show(draw.model(workbench(records)))

        await Watch(visit, lambda: visit.desk.model(key), show, page.show).begin()


@ui.page("/compare")
async def show_comparison(request: Request) -> None:
    """Two variants beside each other."""
    with frame(request, "Compare", "/models") as visit:
        page = Live()
        a, b, model = (request.query_params.get(key, "") for key in ("a", "b", "model"))

        def show(asked: Asked) -> None:
            page.show(draw_beside.page(beside(asked)))

        await Watch(visit, lambda: visit.desk.compare(a, b, model), show, page.show).begin()


@ui.page("/preview")
async def show_preview(request: Request) -> None:
    """What a rollout would do."""
    with frame(request, "Preview", "/rollouts") as visit:
        page = Live()
        asked = [request.query_params.get(key, "") for key in ("release", "where", "group")]

        def show(wish: Wish) -> None:
            page.show(draw_planned.page(planned(wish)))

        await Watch(visit, lambda: visit.desk.preview(*asked), show, page.show).begin()


@ui.page("/rollouts")
async def show_rollouts(request: Request) -> None:
    """All rollouts."""
    with frame(request, "Rollouts", "/rollouts") as visit:
        page = Live()

        def show(records: FleetRecords) -> None:
            page.show(Html(heading("Rollouts") + draw.rollouts(overview(records))))

        await Watch(visit, visit.desk.rollouts, show, page.show).begin()


@ui.page("/rollouts/{key}")
async def show_rollout(request: Request, key: str) -> None:
    """One rollout, and what may be done with it."""
    with frame(request, "Rollout", "/rollouts") as visit:
        head = Live()
        buttons = ui.element("div").classes("acts").props('role=group aria-label="Actions"')
        page = Live()
        offered: dict[str, tuple[str, ...]] = {}

        def show(records: RolloutRecords) -> None:
            view = waves(records)
            head.show(draw.rollout_head(view))
            page.show(draw.rollout(view))
            acts = view.acts if visit.may(CHANGES_ROLLOUTS) else ()
            if offered.get("acts") != acts:
                offered["acts"] = acts
                buttons.clear()
                with buttons:
                    for act in acts:
                        _act(visit, key, act, watch)

        watch = Watch(visit, lambda: visit.desk.rollout(key), show, head.show)
        await watch.begin()


def _act(visit: Visit, key: str, act: str, watch: Watch[RolloutRecords]) -> None:
    forms.asking(
        act.capitalize(), title=f"{act.capitalize()} this rollout?", words=ACTS[act][1],
        answer=f"{act.capitalize()} it", visit=visit, kind=act,
        run=lambda: visit.desk.change_rollout(visit.who, key, act),
        after=lambda: watch.look(again=True),
    )  # fmt: skip


@ui.page("/pending")
async def show_pending(request: Request) -> None:
    """Devices that ask to be let in without a token."""
    with frame(request, "Pending", "/pending") as visit:
        head = Live()
        cards = ui.element("div")
        rest = Live()
        offered: dict[str, tuple[Waiting, ...]] = {}

        def show(found: Applying) -> None:
            view = pending(found.applicants, may=visit.may(ANSWERS_APPLICANTS))
            head.show(draw_pending.head(view, open_=found.open_))
            rest.show(draw_pending.answered(view))
            still = tuple(replace(row, seen_at=0.0) for row in view.waiting)
            if offered.get("rows") != still:  # a dialog that is open stays so while others ask
                offered["rows"] = still
                cards.clear()
                with cards:
                    for row in view.waiting:
                        forms.applicant(visit, row, lambda: watch.look(again=True))

        watch = Watch(visit, visit.desk.applicants, show, head.show)
        await watch.begin()


@ui.page("/triggers")
async def show_triggers(request: Request) -> None:
    """Reasons to fit again."""
    with frame(request, "Triggers", "/triggers") as visit:
        page = Live()

        def show(found: Journal) -> None:
            rows = journal.trigger_rows(found.triggers, found.names or {})
            announced = stack_rows(found.stacks, found.standings)
            page.show(Html(heading("Triggers") + draw.triggers(rows) + stacks(announced)))

        await Watch(visit, visit.desk.journal, show, page.show).begin()


@ui.page("/tickets")
async def show_tickets(request: Request) -> None:
    """Devices that do worse than their kind."""
    with frame(request, "Tickets", "/tickets") as visit:
        page = Live()

        def show(found: Journal) -> None:
            rows = journal.ticket_rows(found.tickets)
            page.show(Html(heading("Tickets") + draw.tickets(rows)))

        await Watch(visit, visit.desk.journal, show, page.show).begin()


@ui.page("/audit")
async def show_audit(request: Request) -> None:
    """Decisions and acts."""
    with frame(request, "Audit", "/audit") as visit:
        wanted = {"text": ""}
        top = Live()

        async def narrow(text: str) -> None:
            wanted["text"] = text
            await watch.look(again=True)

        filtering("Find entries", narrow)
        listed = Live()

        def show(found: Journal) -> None:
            top.show(heading("Audit"))
            listed.show(draw.audit(journal.audit(found.audit, found.pages or {}, wanted["text"])))

        watch = Watch(visit, visit.desk.journal, show, listed.show)
        await watch.begin()
