"""Receive the rest of a file over HTTP, from where it ends: from a mirror that serves ranges.

A mirror is any web server or object store that holds the transport files; the controller names it.
It is believed in nothing: what came is held to the signed length and digest, and whatever is wrong
with a mirror only means that the rest comes over the gateway. Ranges are those of RFC 9110, §14.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent import durable

_READ_BYTES = 256 * 1024
_SYNC_BYTES = 4 * 1024 * 1024
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TROUBLE = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Slower than this over a whole window, a mirror is given up."""

    min_rate_bytes_s: float
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What a mirror sent, and why not the rest; an empty reason when all came."""

    count: int
    reason: str


class _Unhelpful(Exception):
    """The mirror's answer is not what was asked for."""


def append(
    url: str, file: Any, *, offset: int, total: int, pace: Pace, ca: str,
    came: Callable[[int], None] = lambda _count: None,
) -> Came:  # fmt: skip
    """Write bytes ``offset`` to ``total`` of ``url`` to the end of ``file``, and sync it.

    Args:
        url: ``https://…``, or ``http://…`` where the operator wrote so.
        file: opened through `durable` for appending; holds ``offset`` bytes.
        offset: first byte that is missing.
        total: signed length of the whole.
        pace: when to give up.
        ca: PEM file trusted beside the system's authorities: the fleet's own.
        came: told of the bytes that came, before they are written.

    Raises:
        OSError: the file cannot be written. Whatever is wrong with the mirror is a reason.
    """
    copy = _Copy(file, total - offset, came)

    def receive() -> None:
        with _open(url, offset, total, pace, ca) as answer:
            _check(answer, offset, total)
            copy.all(answer)

    try:
        _watched(receive, copy, pace)
    except _Unhelpful as error:
        return Came(count=copy.count, reason=f"{host(url)} {error}")
    finally:
        copy.sync()
    return Came(count=copy.count, reason="")


def _watched(receive: Callable[[], None], copy: _Copy, pace: Pace) -> None:
    """Receive on a thread, and give it up when too little came in a window.

    A limit on each read does not do: a mirror that sends a byte of its headers now and then never
    reaches it. What was given up writes nothing any more, and ends with this process at the latest.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            receive()
        except (_Unhelpful, OSError) as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name="mirror", daemon=True).start()
    before = 0
    while not wait([ended], pace.window_s).done:
        if copy.count - before < pace.min_rate_bytes_s * pace.window_s:
            copy.give_up()
            raise _Unhelpful(f"sent fewer than {pace.min_rate_bytes_s:g} bytes a second")
        before = copy.count
    ended.result()


def host(url: str) -> str:
    """What a person may be told of a URL: its query can hold a secret."""
    return urlsplit(url).netloc.rpartition("@")[2] or "a mirror without a name"


def _open(url: str, offset: int, total: int, pace: Pace, ca: str) -> Any:
    if urlsplit(url).scheme not in ("https", "http"):
        raise _Unhelpful("is no address for HTTP")
    headers = {
        "Range": f"bytes={offset}-{total - 1}",
        "Accept-Encoding": "identity",  # the bytes as they lie; they are compressed already
        "User-Agent": "fitment-agent",
    }
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=ca)
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _Redirects()
        )
        return opener.open(urllib.request.Request(url, headers=headers), timeout=pace.window_s)  # noqa: S310 - checked
    except urllib.error.HTTPError as error:
        error.close()
        raise _Unhelpful(f"answers {error.code} {error.reason}") from error
    except _TROUBLE as error:
        raise _Unhelpful(f"cannot be used: {_words(error)}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a mirror to another place, but never from HTTPS to a line that others can read."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            fp.close()
            raise urllib.error.URLError("it leads from HTTPS to somewhere else")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check(answer: Any, offset: int, total: int) -> None:
    """Whether the answer is the part that was asked for, of a file of the signed length."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise _Unhelpful("sends it encoded, though asked not to")
    if answer.status == 206:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != offset or found[3] not in ("*", str(total)):
            raise _Unhelpful("sends another part, or of a file of another length")
        return
    length = answer.headers.get("Content-Length")
    if answer.status != 200 or offset:
        raise _Unhelpful(f"does not go on at a byte (answers {answer.status})")
    if length not in (None, str(total)):
        raise _Unhelpful(f"has a file of {length} bytes, not {total}")


class _Copy:
    """Counts what is written, and syncs it now and then."""

    def __init__(self, file: Any, missing: int, came: Callable[[int], None]) -> None:
        self.count = 0
        self._came = came
        self._file, self._missing = file, missing
        self._unsynced = 0
        self._given_up = False
        self._lock = threading.Lock()

    def all(self, answer: Any) -> None:
        """Copy until nothing is missing.

        Raises:
            _Unhelpful: the mirror stopped, or was given up.
            OSError: the file cannot be written.
        """
        while self.count < self._missing:
            data = _read(answer, min(_READ_BYTES, self._missing - self.count))
            with self._lock:
                if self._given_up:
                    raise _Unhelpful("was given up")
                self._write(data)

    def give_up(self) -> None:
        """Nothing is written from here on."""
        with self._lock:
            self._given_up = True

    def sync(self) -> None:
        """What is written stays, whatever happens next."""
        durable.sync(self._file)
        self._unsynced = 0

    def _write(self, data: bytes) -> None:
        self._came(len(data))
        self._file.write(data)
        self.count += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES:
            self.sync()


def _read(answer: Any, most: int) -> bytes:
    try:
        data: bytes = answer.read1(most)
    except _TROUBLE as error:
        raise _Unhelpful(f"stopped: {_words(error)}") from error
    if not data:
        raise _Unhelpful("ended early")
    return data


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__
