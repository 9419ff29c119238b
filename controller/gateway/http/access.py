"""Who may call what over REST: a row for every call. A route without one does not start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from controller.domain.roles import Identity, Role, covers
from controller.errors import Forbidden

_VIEWER, _OPERATOR, _ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN

ACCESS: Mapping[tuple[str, str], Role] = {
    ("GET", "/metrics"): _VIEWER,
    ("GET", "/v1/status"): _VIEWER,
    ("GET", "/v1/whoami"): _VIEWER,
    ("GET", "/v1/triggers"): _VIEWER,
    ("POST", "/v1/triggers/{key}/close"): _OPERATOR,
    ("GET", "/v1/tickets"): _VIEWER,
    ("GET", "/v1/tickets/{key}"): _VIEWER,
    ("POST", "/v1/tickets/{key}/{act}"): _OPERATOR,
    ("GET", "/v1/stacks"): _VIEWER,
    ("GET", "/v1/stacks/{key}"): _VIEWER,
    ("POST", "/v1/stacks"): _OPERATOR,
    ("POST", "/v1/stacks/{key}/withdraw"): _OPERATOR,
    ("GET", "/v1/policies"): _VIEWER,
    ("POST", "/v1/policies"): _ADMIN,  # what it allows signs with the offline key
    ("GET", "/v1/audit"): _VIEWER,
    ("GET", "/v1/telemetry"): _VIEWER,
    ("GET", "/v1/telemetry/export"): _VIEWER,
    ("GET", "/v1/devices"): _VIEWER,
    ("GET", "/v1/devices/{name}"): _VIEWER,
    ("GET", "/v1/devices/{name}/telemetry"): _VIEWER,
    ("GET", "/v1/devices/{name}/history"): _VIEWER,
    ("POST", "/v1/devices/{name}/notes"): _OPERATOR,
    ("POST", "/v1/devices/{name}/labels"): _OPERATOR,
    ("GET", "/v1/notes"): _VIEWER,
    ("POST", "/v1/import"): _ADMIN,  # it says who wrote a note
    ("GET", "/v1/devices/{name}/model"): _OPERATOR,  # the file itself is somebody's property
    ("POST", "/v1/devices/{name}/field-labels"): _OPERATOR,  # they can halt a rollout
    ("GET", "/v1/field"): _VIEWER,
    ("GET", "/v1/rollouts/{key}/field"): _VIEWER,
    ("POST", "/v1/devices/{name}/revoke"): _ADMIN,
    ("POST", "/v1/devices/{name}/decommission"): _ADMIN,
    ("POST", "/v1/devices/{name}/readmit"): _ADMIN,
    ("GET", "/v1/applicants"): _VIEWER,
    ("POST", "/v1/applicants/{name}/approve"): _OPERATOR,
    ("POST", "/v1/applicants/{name}/reject"): _OPERATOR,
    ("POST", "/v1/tokens"): _OPERATOR,
    ("GET", "/v1/groups"): _VIEWER,
    ("GET", "/v1/groups/{name}"): _VIEWER,
    ("POST", "/v1/groups"): _OPERATOR,
    ("POST", "/v1/groups/{name}"): _OPERATOR,
    ("DELETE", "/v1/groups/{name}"): _OPERATOR,
    ("GET", "/v1/models"): _VIEWER,
    ("GET", "/v1/models/{key}"): _VIEWER,
    ("POST", "/v1/models"): _ADMIN,  # a workload is code that runs on this machine
    ("POST", "/v1/models/{key}/approve"): _ADMIN,  # signs with the offline key
    ("GET", "/v1/variants/{key}"): _VIEWER,
    ("GET", "/v1/fits"): _VIEWER,
    ("GET", "/v1/fits/{key}"): _VIEWER,
    ("POST", "/v1/fits"): _OPERATOR,
    ("GET", "/v1/releases"): _VIEWER,
    ("GET", "/v1/releases/{key}"): _VIEWER,
    ("POST", "/v1/releases"): _OPERATOR,
    ("POST", "/v1/releases/{key}/approve"): _ADMIN,
    ("GET", "/v1/rollouts"): _VIEWER,
    ("GET", "/v1/rollouts/{key}"): _VIEWER,
    ("GET", "/v1/deployments"): _VIEWER,
    ("POST", "/v1/rollouts"): _OPERATOR,
    ("POST", "/v1/rollouts/preview"): _VIEWER,  # it changes nothing
    ("POST", "/v1/rollouts/{key}/retry"): _OPERATOR,
    ("POST", "/v1/rollouts/{key}/{act}"): _OPERATOR,
    ("GET", "/v1/operators"): _ADMIN,
    ("POST", "/v1/operators"): _ADMIN,
    ("POST", "/v1/operators/{name}/revoke"): _ADMIN,
}
"""Method and path, as routes spell it, to the role that is needed."""


def role_of(method: str, path: str) -> Role:
    """The role that a call needs.

    Raises:
        LookupError: it has no row.
    """
    return ACCESS[method, path]


def demand(who: Identity, needed: Role) -> None:
    """Let pass who has the role.

    Raises:
        Forbidden: naming what is missing.
    """
    if not covers(who.role, needed):
        raise Forbidden(
            f"this needs the role '{needed.value}', and '{who.name}' has '{who.role.value}': ask an"
            f" admin for a token (fitment operator create NAME --role {needed.value})"
        )


def guard(prefix: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency of every route below ``prefix``: who passed the door also needs its role."""

    async def check(request: Request) -> None:
        path = request.scope["route"].path  # with or without the prefix: FastAPI's have both
        needed = role_of(request.method, prefix + path.removeprefix(prefix))
        demand(request.state.who, needed)

    return check


def cover_all(routes: Iterable[BaseRoute], prefix: str) -> None:
    """See to it that every one of a router's routes has a row below ``prefix``.

    Raises:
        LookupError: one has none; the program must not start.
    """
    for route in routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                role_of(method, prefix + route.path)
