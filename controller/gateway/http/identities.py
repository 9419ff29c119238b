"""Whose token it is: the file's beside the database, Prometheus's, or an operator's own."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from controller.domain.roles import Identity, Role
from controller.gateway.http.api import Api
from controller.reconcile import operators
from controller.reconcile.context import LOCAL

METRICS = Identity(name="metrics", role=Role.VIEWER)


class Identities:
    """Looks tokens up. What an operator's token opens is read anew each time it is shown."""

    def __init__(self, api: Api, token: str) -> None:
        self._api = api
        self._token = token.encode()

    @property
    def key(self) -> bytes:
        """The local token: what is derived from it ends with it."""
        return self._token

    async def of(self, token: str) -> Identity | None:
        """Whose it is; None: nobody's, or it has ended."""
        shown = token.strip()
        if hmac.compare_digest(shown.encode(), self._token):
            return Identity(name=LOCAL, role=Role.ADMIN)
        if not operators.is_token(shown):
            return None  # the engine has better to do than to look up what cannot be one
        return await self._ask(lambda: operators.holder(self._api.controller.context, shown))

    async def named(self, name: str) -> Identity | None:
        """Who has this name now; None: nobody any more."""
        if name == LOCAL:
            return Identity(name=LOCAL, role=Role.ADMIN)
        return await self._ask(lambda: operators.named(self._api.controller.context, name))

    async def _ask(self, look: Callable[[], Identity | None]) -> Identity | None:
        return await self._api.ask(look)
