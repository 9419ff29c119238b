"""Requests to a controller: asked again where that is safe, and errors in our words."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from controller.errors import (
    Conflict,
    DiskFull,
    FitError,
    FitmentError,
    Forbidden,
    LeaseLost,
    NotFound,
    Temporary,
    TrustError,
    UserError,
    WorkloadError,
)
from fitment.core import plain

T = TypeVar("T")
TIMEOUT_S = 30.0
DATA_DIR = "fitment-data"
TOKEN_VARIABLE = "FITMENT_TOKEN"  # noqa: S105 - a variable's name
RETRIES = 3
FIRST_WAIT_S = 0.2
"""Before asking again; doubled each time."""

_ERRORS: Mapping[str, type[FitmentError]] = {
    kind.code: kind
    for kind in (
        UserError, NotFound, Conflict, WorkloadError, TrustError, Forbidden, Temporary, DiskFull,
        LeaseLost, FitError,
    )
}  # fmt: skip


class Unreachable(UserError):
    """Nobody answers at the controller's address."""

    code = "unreachable"


class Broken(Temporary):
    """The connection broke before the answer was there."""


class TimedOut(Temporary):
    """No answer came in time; asking again would take as long."""


class Calls:
    """The way to one controller."""

    def __init__(
        self, server: str, token: str, *, transport: httpx.BaseTransport | None = None,
        retries: int = RETRIES,
    ) -> None:  # fmt: skip
        self.server = server
        self._retries = retries
        self._http = httpx.Client(
            base_url=server,
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
            transport=transport,
            # The server closes a quiet connection after five seconds: never be just too late.
            limits=httpx.Limits(keepalive_expiry=2.0),
            trust_env=False,  # a proxy for the internet is not one for the controller
        )

    @classmethod
    def of(cls, server: str = "", token: str = "", *, data_dir: Path | str = "") -> Self:
        """A client from what is given, from the environment, or from a data directory.

        The variables are ``FITMENT_SERVER``, ``FITMENT_TOKEN`` and ``FITMENT_DATA_DIR``; the last
        is the directory of a controller on this machine, which tells the other two.

        Raises:
            UserError: there is no address or no token; the message says where they come from.
        """
        folder = Path(data_dir or os.environ.get("FITMENT_DATA_DIR", "") or DATA_DIR)
        where = server or os.environ.get("FITMENT_SERVER", "") or _address(folder)
        return cls(where, token or os.environ.get(TOKEN_VARIABLE, "").strip() or _token(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _get(self, kind: type[T], path: str, **query: str) -> T:
        given = {key: value for key, value in query.items() if value}
        return self._ask(kind, "GET", path, params=given)

    def _all(self, kind: type[T], path: str, **query: str) -> tuple[T, ...]:
        return tuple(self._each(kind, path, **query))

    def _each(self, kind: type[T], path: str, **query: str) -> Iterator[T]:
        """What a list has, page by page."""
        given = {key: value for key, value in query.items() if value}
        answer = self._request("GET", path, params=given)
        while True:
            found: tuple[T, ...] = plain.from_plain(tuple[kind, ...], self._document(answer))  # type: ignore[valid-type]
            yield from found
            if "next" not in answer.links:
                return
            answer = self._request("GET", answer.links["next"]["url"])

    def _post(self, kind: type[T], route: str, *, timeout_s: float = TIMEOUT_S, **body: Any) -> T:
        """Make something; its key makes sure that it is made once, however often it is asked."""
        headers = {"idempotency-key": uuid.uuid4().hex} if _is_keyed(route) else {}
        headers["content-type"] = "application/json"
        text = _text(plain.to_plain(body))
        return self._ask(kind, "POST", route, content=text, timeout=timeout_s, headers=headers)

    def _ask(self, kind: type[T], method: str, path: str, **more: Any) -> T:
        return plain.from_plain(kind, self._document(self._request(method, path, **more)))

    def _document(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise Unreachable(
                f"what answers at {self.server} is no controller: give the address that"
                " 'fitment serve' prints for operators"
            ) from error

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        harmless = method == "GET" or _is_keyed(path) or path.endswith("/field-labels")
        tries = self._retries if harmless else 0
        for number in range(tries):
            answer = self._tried(method, path, **more)
            if answer is not None:
                return answer
            time.sleep(FIRST_WAIT_S * 2**number)
        return self._once(method, path, **more)

    def _tried(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The answer; None for what may be over in a moment."""
        try:
            return self._once(method, path, **more)
        except Temporary as error:
            if type(error) in {Temporary, Broken}:  # a full disk stays full, a timeout was long
                return None
            raise

    def _once(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._said():
            answer = self._http.request(method, path, **more)
        if answer.is_success:
            return answer
        raise _problem(answer)

    def _stream(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        with self._said(), self._http.stream("GET", path, params=query) as answer:
            if not answer.is_success:
                answer.read()
                raise _problem(answer)
            yield from answer.iter_bytes()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What goes wrong on the way, in our words."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise TimedOut(f"the controller at {self.server} did not answer in time") from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise Broken(f"the connection to {self.server} broke ({error})") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"no controller answers at {self.server} ({error}); start one with"
                " 'fitment serve', or name another with --server"
            ) from error

    def _wait(
        self, look: Callable[[], T], done: Callable[[T], bool], what: str, timeout_s: float,
        every_s: float, told: Callable[[T], None] | None,
    ) -> T:  # fmt: skip
        until = time.monotonic() + timeout_s
        while True:
            with suppress(Temporary, Unreachable):
                found = look()
                if told is not None:
                    told(found)
                if done(found):
                    return found
            if time.monotonic() + every_s > until:
                raise Temporary(f"{what} is not over after {timeout_s:g} s; it goes on")
            time.sleep(every_s)


def _text(body: Any) -> str:
    """JSON, also of what notebooks have at hand: moments, and numbers of numpy.

    Raises:
        UserError: it holds what no JSON can say.
    """

    def known(value: Any) -> Any:
        if isinstance(value, dt.datetime):
            return value.isoformat()
        if hasattr(value, "tolist"):  # numpy's: a number of a number, a list of an array
            return value.tolist()
        raise UserError(f"a {type(value).__name__} cannot be sent: give texts and numbers")

    try:
        return json.dumps(body, allow_nan=False, default=known)
    except ValueError as error:
        raise UserError("a number here is NaN or infinite, which says nothing") from error


def _is_keyed(route: str) -> bool:
    """Whether it makes something, once for its Idempotency-Key.

    Tokens of devices and operators are not among them: a secret is answered once, so asking again
    with the key of an answer that was lost would only say that it is gone.
    """
    made = {"/v1/fits", "/v1/releases", "/v1/rollouts", "/v1/groups"}
    return route in made or re.fullmatch("/v1/devices/[^/]+/notes", route) is not None


def _address(data_dir: Path) -> str:
    path = data_dir / "controller.json"
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"no controller runs on {data_dir}: start one with 'fitment serve',"
            " or name one with --server or --data-dir"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return str(document["rest"])


def _token(data_dir: Path) -> str:
    path = data_dir / "operator.token"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UserError(
            f"no operator token: set {TOKEN_VARIABLE}, or give the --data-dir with its"
            f" operator.token ({error.strerror}: {path})"
        ) from error


def _problem(answer: httpx.Response) -> FitmentError:
    try:
        document = answer.json()
    except ValueError:
        document = {}
    code, text = str(document.get("code", "")), str(document.get("detail", ""))
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return UserError(
            "the controller does not accept this operator token: set FITMENT_TOKEN, or give the"
            " --data-dir that holds its operator.token"
        )
    kind = _ERRORS.get(code, FitmentError)
    return kind(text or f"the controller answered {answer.status_code}")
