"""Sessions: signed, ending, and worthless once ended."""

from __future__ import annotations

import pytest

from controller.dashboard.sessions import LIFE_S, Sessions
from controller.testing import ManualClock


def test_a_session_is_ours_until_it_ends() -> None:
    clock = ManualClock()
    sessions = Sessions("token", clock)
    assert sessions.admits(" token\n")
    assert not sessions.admits("Token")
    cookie = sessions.issue()
    assert "token" not in cookie
    assert sessions.holds(cookie)
    assert Sessions("token", clock).holds(cookie), "a restart logs nobody out"
    assert not Sessions("another", clock).holds(cookie), "another token logs out everybody"
    clock.advance(LIFE_S + 1)
    assert not sessions.holds(cookie)


def test_logging_out_ends_that_session_alone() -> None:
    clock = ManualClock()
    sessions = Sessions("token", clock)
    one, other = sessions.issue(), sessions.issue()
    sessions.end(one)
    sessions.end(one)
    sessions.end("nonsense")
    assert not sessions.holds(one)
    assert sessions.holds(other)
    clock.advance(LIFE_S + 1)
    sessions.end(sessions.issue())


@pytest.mark.parametrize("cookie", ["", ".", "..", "9e9.x.y", "1.2", "ä.ö.ü", "nan.n.s"])
def test_what_we_did_not_sign_is_nothing(cookie: str) -> None:
    assert not Sessions("token").holds(cookie)


def test_a_longer_life_breaks_the_signature() -> None:
    sessions = Sessions("token", ManualClock())
    expires, nonce, signature = sessions.issue().split(".")
    assert not sessions.holds(f"{int(expires) + 1}.{nonce}.{signature}")
