"""Sessions: signed, ending, and worthless once ended."""

from __future__ import annotations

import pytest

from controller.dashboard.sessions import LIFE_S, Sessions
from controller.testing import ManualClock


def test_a_session_is_ours_until_it_ends() -> None:
    clock = ManualClock()
    sessions = Sessions(b"token", clock)
    cookie = sessions.issue("ann@site.b")
    assert "token" not in cookie
    assert sessions.holder(cookie) == "ann@site.b"
    assert Sessions(b"token", clock).holder(cookie), "a restart logs nobody out"
    assert not Sessions(b"another", clock).holder(cookie), "another token logs out everybody"
    clock.advance(LIFE_S + 1)
    assert not sessions.holder(cookie)


def test_logging_out_ends_that_session_alone() -> None:
    clock = ManualClock()
    sessions = Sessions(b"token", clock)
    one, other = sessions.issue("ann@site.b"), sessions.issue("ann@site.b")
    sessions.end(one)
    sessions.end(one)
    sessions.end("nonsense")
    assert not sessions.holder(one)
    assert sessions.holder(other)
    clock.advance(LIFE_S + 1)
    sessions.end(sessions.issue("ann@site.b"))


@pytest.mark.parametrize("cookie", ["", ".", "..", "9e9.x.y", "1.2", "ä.ö.ü", "nan.n.s"])
def test_what_we_did_not_sign_is_nothing(cookie: str) -> None:
    assert not Sessions(b"token").holder(cookie)


def test_a_longer_life_breaks_the_signature() -> None:
    sessions = Sessions(b"token", ManualClock())
    expires, nonce, _, signature = sessions.issue("ann@site.b").split(".")
    assert not sessions.holder(f"{int(expires) + 1}.{nonce}.{b'ann@site.b'.hex()}.{signature}")
    assert not sessions.holder(f"{expires}.{nonce}.{b'bob'.hex()}.{signature}")
