"""A change counts when it was seen twice in a row."""

from __future__ import annotations

import pytest

from agent.hardware import Debouncer
from fitment.core.fingerprint import Facet, Fingerprint


def fingerprint(name: str) -> Fingerprint:
    facet = Facet.of({})
    return Fingerprint(
        chassis=facet, hardware=Facet.of({"cpu": name}), stack=facet, condition=facet
    )


@pytest.mark.parametrize(
    ("polls", "accepted"),
    [
        ("a", "a"),  # the first is taken at once
        ("aa", "a"),
        ("ab", "a"),  # seen once
        ("abb", "b"),  # seen twice in a row
        ("aba", "a"),  # it was nothing
        ("abab", "a"),  # never twice in a row
        ("abc", "a"),
        ("abcc", "c"),
        ("abbaa", "a"),
    ],
)
def test_rows(polls: str, accepted: str) -> None:
    debouncer = Debouncer()
    for poll in polls:
        debouncer = debouncer.observe(fingerprint(poll))
    assert debouncer.accepted == fingerprint(accepted)


def test_it_is_pure() -> None:
    first = Debouncer().observe(fingerprint("a"))
    first.observe(fingerprint("b"))
    assert first == Debouncer(accepted=fingerprint("a"))
