"""Who may enter: REST by its own rule, pages with a session, nobody else. Default deny."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.dashboard.desk import Desk, Visit
from controller.dashboard.draw import login
from controller.dashboard.sessions import LIFE_S, Sessions
from controller.domain.roles import Identity
from controller.errors import Temporary
from controller.gateway.http.app import METRICS_PATH, OPEN_PATHS, problem
from controller.gateway.http.identities import Identities

FORM_MAX_BYTES = 4096
STYLE = Path(__file__).parent / "static" / "style.css"

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Vue compiles templates in the page
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self' ws: wss:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
}


REST_PATHS = OPEN_PATHS | {METRICS_PATH}
"""Beside ``/v1``; who may read them is decided there."""


class Entrance:
    """The application in front of all: it asks, and hands over to REST or to the pages."""

    def __init__(
        self,
        *,
        rest: ASGIApp,
        pages: ASGIApp,
        sessions: Sessions,
        identities: Identities,
        desk: Desk,
        port: int,
    ) -> None:
        self._rest = rest
        self._identities = identities
        self._pages = pages
        self._sessions = sessions
        self._desk = desk
        # Cookies know no ports: two controllers on one host must not log each other out.
        self._cookie = f"fitment_session_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or path in REST_PATHS or _is_rest(path):
            await self._rest(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._http(scope, receive, _protected(send))

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        who = await self._who(self._session(scope))
        if who is not None and _same_origin(scope):
            await self._pages(self._with_visit(scope, who), receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/login":
            answer = await self._login(scope, receive)
        elif path == "/style.css" and method == "GET":
            answer = Response(STYLE.read_bytes(), media_type="text/css")
        elif (who := await self._who(self._session(scope))) is None:
            answer = _refused(scope)
        elif path == "/logout" and method == "POST" and _same_origin(scope):
            self._sessions.end(self._session(scope))
            answer = RedirectResponse("/login", 303)
            answer.delete_cookie(self._cookie)
        else:
            await self._pages(self._with_visit(scope, who), receive, send)
            return
        await answer(scope, receive, send)

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] in {"GET", "HEAD"}:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            return HTMLResponse(login.page(_ours(query.get("next", ["/"])[0])))
        if scope["method"] != "POST":
            return problem(405, "invalid", "Method not allowed", "the login takes GET and POST")
        form = await _form(receive)
        after = _ours(form.get("next", "/"))
        if not _same_origin(scope):
            return HTMLResponse(login.page(after, "The form came from another site."), 403)
        try:
            who = await self._identities.of(form.get("token", ""))
        except Temporary as error:
            return HTMLResponse(login.page(after, str(error)), 503)
        if who is None:
            return HTMLResponse(login.page(after, "That is not this controller's token."), 401)
        answer = RedirectResponse(after, 303)
        answer.set_cookie(
            self._cookie, self._sessions.issue(who.name), max_age=int(LIFE_S), httponly=True,
            samesite="lax", secure=_header(scope, b"x-forwarded-proto") == "https",
        )  # fmt: skip
        return answer

    def _session(self, scope: Scope) -> str:
        try:
            jar = SimpleCookie(_header(scope, b"cookie"))
        except CookieError:
            return ""
        return jar[self._cookie].value if self._cookie in jar else ""

    async def _who(self, cookie: str) -> Identity | None:
        """Who holds a session, with the role of now; None: nobody, or not any more."""
        name = self._sessions.holder(cookie)
        try:
            return await self._identities.named(name) if name else None
        except Temporary:  # a controller that stops lets nobody in
            return None

    def _with_visit(self, scope: Scope, who: Identity) -> Scope:
        cookie = self._session(scope)

        async def is_open() -> bool:
            return await self._who(cookie) == who

        visit = Visit(desk=self._desk, who=who, is_open=is_open)
        return {**scope, "state": {**scope.get("state", {}), "visit": visit}}


def _is_rest(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def _refused(scope: Scope) -> Response:
    """People are led to the login; programs are told in their own words."""
    if scope["method"] == "GET" and "text/html" in _header(scope, b"accept"):
        query = scope["query_string"].decode("latin-1")
        after = scope["path"] + (f"?{query}" if query else "")
        return RedirectResponse(f"/login?next={quote(after, safe='')}", 303)
    return problem(
        401,
        "unauthenticated",
        "Login needed",
        "log in at /login with an operator's token, or the one in data_dir/operator.token; programs"
        " use /v1",
    )


def _ours(path: str) -> str:
    """A path on this host, whatever was asked for."""
    parts = urlsplit(path)
    strange = parts.scheme or parts.netloc or not path.startswith("/") or "\\" in path
    return "/" if strange or not path.isprintable() else path


def _same_origin(scope: Scope) -> bool:
    """Browsers say which page asks; programs say nothing, and hold no cookie by accident."""
    origin = _header(scope, b"origin")
    hosts = {_header(scope, b"host"), _header(scope, b"x-forwarded-host")}
    return not origin or urlsplit(origin).netloc in hosts - {""}


def _header(scope: Scope, name: bytes) -> str:
    found: bytes = dict(scope["headers"]).get(name, b"")
    return found.decode("latin-1")


async def _form(receive: Receive) -> dict[str, str]:
    data, more = b"", True
    while more and len(data) <= FORM_MAX_BYTES:
        message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
    pairs = parse_qs(data[:FORM_MAX_BYTES].decode("utf-8", "replace"))
    return {key: values[0] for key, values in pairs.items()}


def _protected(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(key.encode(), text.encode()) for key, text in HEADERS.items()]
            kept = [pair for pair in message["headers"] if pair[0].decode() not in HEADERS]
            message = {**message, "headers": [*kept, *ours]}
        await send(message)

    return with_headers
