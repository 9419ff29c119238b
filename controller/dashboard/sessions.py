"""Sessions of operators: a signed cookie that proves a token was shown, without holding it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

LIFE_S = 12 * 3600.0


class Sessions:
    """Issues, checks and ends sessions. What somebody may do is asked anew each time.

    The signature's key is made from the local operator's token: sessions survive a restart, and
    all end with that token.
    """

    def __init__(self, token: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(token, b"fitment dashboard session of somebody", "sha256")
        self._clock = clock
        self._ended: dict[str, float] = {}  # nonce -> when its session would have expired

    def issue(self, name: str) -> str:
        """A new session of an operator."""
        body = f"{int(self._clock() + LIFE_S)}.{secrets.token_urlsafe(16)}.{name.encode().hex()}"
        return f"{body}.{self._sign(body)}"

    def holder(self, cookie: str) -> str:
        """Whose session it is; empty: not ours, over, or ended."""
        body, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return ""
        expires, nonce, name = body.split(".")
        if self._clock() >= float(expires) or nonce in self._ended:
            return ""
        return bytes.fromhex(name).decode()

    def end(self, cookie: str) -> None:
        """Log out: the cookie is worthless from now on, wherever it is kept."""
        if not self.holder(cookie):
            return
        now = self._clock()
        self._ended = {nonce: until for nonce, until in self._ended.items() if until > now}
        expires, nonce, _, _ = cookie.split(".")
        self._ended[nonce] = float(expires)

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
