"""Service tickets: opened for a device that does worse than its kind, and closed again."""

from __future__ import annotations

from dataclasses import replace

from controller.domain.tickets import OPENS, Ticket, TicketState
from controller.errors import Conflict, NotFound
from controller.reconcile.context import ACTING, Context


def get(context: Context, key: str) -> Ticket:
    """A ticket by id.

    Raises:
        NotFound: there is none.
    """
    found = context.store.tickets.get(key)
    if found is None:
        raise NotFound(f"no ticket '{key}'; see: fitment ticket list")
    return found


def of_device(context: Context, device: str) -> tuple[Ticket, ...]:
    """Those that are not closed."""
    found = context.store.tickets.find(device=device)
    return tuple(ticket for ticket in found if ticket.state is not TicketState.CLOSED)


def open_(context: Context, ticket: Ticket) -> None:
    """Begin one, or take the numbers of now into the one that is open for the same slot."""
    known = [t for t in of_device(context, ticket.device) if t.slot == ticket.slot]
    with context.store.transaction():
        if known:
            newest = replace(
                known[-1], summary=ticket.summary, causes=ticket.causes, numbers=ticket.numbers,
                updated_at=context.clock(), variant=ticket.variant, model=ticket.model,
            )  # fmt: skip
            context.store.tickets.put(newest)
            return
        context.store.tickets.add(ticket)
        details = {
            "device": ticket.device, "summary": ticket.summary, "causes": "; ".join(ticket.causes),
            **{name: f"{value:.4g}" for name, value in ticket.numbers.items()},
        }  # fmt: skip
        context.record("controller", "ticket_opened", ticket.id, details)


def acknowledge(context: Context, key: str) -> Ticket:
    """Say that somebody looks at it."""
    ticket = replace(get(context, key), acknowledged_by=ACTING.get() or "operator")
    return _to(context, ticket, TicketState.ACKNOWLEDGED, "operator", "")


def close(context: Context, key: str, result: str, *, actor: str = "operator") -> Ticket:
    """End one; what the device does from now on may open another.

    Raises:
        Conflict: it is closed already.
    """
    ticket = replace(get(context, key), closed_at=context.clock(), result=result)
    return _to(context, ticket, TicketState.CLOSED, actor, result)


def _to(context: Context, ticket: Ticket, state: TicketState, actor: str, words: str) -> Ticket:
    if state not in OPENS[ticket.state]:
        raise Conflict(f"the ticket is {ticket.state.value}; it cannot become {state.value}")
    changed = replace(ticket, state=state)
    with context.store.transaction():
        context.store.tickets.put(changed)
        details = {"device": ticket.device, "result": words}
        context.record(actor, f"ticket_{state.value}", ticket.id, details)
    return changed
