"""How records are answered: in pages, with a tag, and once for a key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from controller.domain import fleet
from controller.domain.roles import Identity
from controller.errors import Conflict, UserError
from controller.gateway.http.api import Api, number, reply
from controller.gateway.http.document import PAGE_MAX
from controller.store.base import Collection
from fitment.core import plain

R = TypeVar("R")
KEY_HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotency-replayed"
KEPT_S = 86400.0
_KEY = re.compile(r"[!-~]{1,200}\Z")
_CURSOR = re.compile(r"[1-9][0-9]{0,17}\Z")


async def page(
    api: Api,
    request: Request,
    records: Collection[R],
    wanted: dict[str, Any],
    *,
    newest: bool = False,
    most: int = PAGE_MAX,
    usual: int = PAGE_MAX,
    shown: Callable[[R], object] = lambda record: record,
) -> JSONResponse:
    """Some of the records, oldest first, and where the next ones are.

    The way on is in the ``Link`` header, so the body is the list as it always was. With ``newest``
    the first page has the newest records, and the next one older ones. ``shown`` says what is
    answered of a record.
    """
    limit, after = number(request, "limit", usual, most=most), _cursor(request)
    found = await api.ask(lambda: records.page(limit + 1, after=after, newest=newest, **wanted))
    return _linked(request, found, limit, lambda some: reversed(some) if newest else some, shown)


async def picked(
    api: Api,
    request: Request,
    records: Collection[R],
    wanted: dict[str, Any],
    holds: Callable[[R], bool],
) -> JSONResponse:
    """`page` for what no index can say: every record is looked at, oldest first."""
    limit, first = number(request, "limit", PAGE_MAX, most=PAGE_MAX), _cursor(request)

    def read() -> list[tuple[int, R]]:
        after = first
        found: list[tuple[int, R]] = []
        while len(found) <= limit:
            some = records.page(PAGE_MAX, after=after, **wanted)
            found += [pair for pair in some if holds(pair[1])]
            if len(some) < PAGE_MAX:
                break
            after = some[-1][0]
        return found[: limit + 1]

    return _linked(request, await api.ask(read), limit, lambda some: some, lambda record: record)


async def computed(
    api: Api, request: Request, read: Callable[[], Sequence[R]], *, usual: int = PAGE_MAX
) -> JSONResponse:
    """`page` for what is put together anew each time, newest first; ``read`` gives oldest first.

    Places count from the oldest, so what comes meanwhile moves no page.
    """
    limit, before = number(request, "limit", usual, most=PAGE_MAX), _cursor(request)
    placed = list(enumerate(await api.ask(read), 1))
    newest_first = [pair for pair in reversed(placed) if not before or pair[0] < before]
    found = newest_first[: limit + 1]
    return _linked(request, found, limit, lambda some: some, lambda record: record)


def _linked(
    request: Request,
    found: Sequence[tuple[int, R]],
    limit: int,
    order: Callable[[Sequence[tuple[int, R]]], Iterable[tuple[int, R]]],
    shown: Callable[[R], object],
) -> JSONResponse:
    """A page, and the way to the next one where there is more than ``limit``."""
    some = found[:limit]
    answer = reply([shown(record) for _, record in order(some)])
    if len(found) > limit:
        url = request.url.include_query_params(cursor=str(some[-1][0]))
        answer.headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
    return answer


def tagged(request: Request, value: object) -> Response:
    """One record with its ETag, or 304 when the asker has it."""
    answer = reply(value)
    tag = f'"{hashlib.sha256(bytes(answer.body)).hexdigest()[:32]}"'
    known = [part.strip().removeprefix("W/") for part in _sent(request, "if-none-match").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers={"etag": tag})
    answer.headers["etag"] = tag
    return answer


async def once(
    api: Api, request: Request, create: Callable[[], object], *, secret: bool = False
) -> JSONResponse:
    """Create something, once for the request's Idempotency-Key where it has one.

    What was made and that it was are one transaction. The same key with another request is
    refused; so is asking again for a ``secret``, which is not kept.
    """
    key = _sent(request, KEY_HEADER)
    if KEY_HEADER not in request.headers:
        return reply(await api.ask(create), 201)
    if not _KEY.match(key):
        raise UserError("'Idempotency-Key' has 1 to 200 visible ASCII characters")
    who: Identity = request.state.who  # nobody gets the answer that was another's
    asked = f"{who.name} {request.method} {request.url.path}\n".encode() + await request.body()
    digest = hashlib.sha256(asked).hexdigest()
    store, now = api.controller.store, api.controller.context.clock()

    def act() -> tuple[object, bool]:
        with store.transaction():
            _forget(api, now - KEPT_S)
            known = store.answers.get(key)
            if known is None:
                made = plain.to_plain(create())
                text = "" if secret else json.dumps(made)
                store.answers.add(fleet.Answer(key=key, request=digest, at=now, body=text))
                return made, False
            return _again(known, digest), True

    value, replayed = await api.ask(act)
    answer = reply(value, 201)
    if replayed:
        answer.headers[REPLAYED_HEADER] = "true"
    return answer


def _again(known: fleet.Answer, digest: str) -> object:
    if known.request != digest:
        raise Conflict("this Idempotency-Key was used for another request; take a new one")
    if not known.body:
        raise Conflict(
            "this Idempotency-Key made a secret already, which was shown once; take a new one"
        )
    return json.loads(known.body)


def _forget(api: Api, before: float) -> None:
    """Drop the oldest keys whose day is over; a few at a time, for each request drops some."""
    answers = api.controller.store.answers
    for _, answer in answers.page(20):
        if answer.at < before:
            answers.delete(answer.key)


def _sent(request: Request, header: str) -> str:
    return ",".join(request.headers.getlist(header))


def _cursor(request: Request) -> int:
    text = request.query_params.get("cursor")
    if text is None:
        return 0
    if not _CURSOR.match(text):
        raise UserError("'cursor' is what a Link header named; begin without one")
    return int(text)
