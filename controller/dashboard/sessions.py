"""Sessions of operators: a signed cookie that proves the token was shown, without holding it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

LIFE_S = 12 * 3600.0


class Sessions:
    """Issues, checks and ends sessions.

    The signature's key is made from the operator's token: sessions survive a restart, and end
    with the token.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._token = token.encode()
        self._key = hmac.digest(self._token, b"fitment dashboard session", "sha256")
        self._clock = clock
        self._ended: dict[str, float] = {}  # nonce -> when its session would have expired

    def admits(self, token: str) -> bool:
        """Whether it is the operator's token, in constant time."""
        return hmac.compare_digest(token.strip().encode(), self._token)

    def issue(self) -> str:
        """A new session."""
        body = f"{int(self._clock() + LIFE_S)}.{secrets.token_urlsafe(16)}"
        return f"{body}.{self._sign(body)}"

    def holds(self, cookie: str) -> bool:
        """Whether a session is ours, runs, and was not ended."""
        body, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return False
        expires, _, nonce = body.partition(".")
        return self._clock() < float(expires) and nonce not in self._ended

    def end(self, cookie: str) -> None:
        """Log out: the cookie is worthless from now on, wherever it is kept."""
        if not self.holds(cookie):
            return
        now = self._clock()
        self._ended = {nonce: until for nonce, until in self._ended.items() if until > now}
        expires, nonce, _ = cookie.split(".")
        self._ended[nonce] = float(expires)

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
