"""Which variant and rung a sample is of."""

from __future__ import annotations

import math

from agent.telemetry import LastRun, Serves, tagged

MEASURED = LastRun(slot="digits", variant="v1", p50_ms=2.0)
CHOSEN = Serves(variant="v1", laddered=True)
LESSER = Serves(variant="v2", rung=1, laddered=True)


def test_without_a_ladder_the_tags_are_of_what_was_measured() -> None:
    columns, tags = tagged(MEASURED, {"digits": Serves(variant="v1")})
    assert columns == {"last_latency_p50_ms": 2.0}
    assert tags == {"slot": "digits", "variant": "v1", "rung": "0"}
    assert tagged(MEASURED, {})[1] == tags
    assert tagged(LastRun(), {})[1] == {}


def test_a_rungs_samples_are_its_own() -> None:
    columns, tags = tagged(MEASURED, {"digits": LESSER})
    assert (tags["variant"], tags["rung"]) == ("v2", "1")
    assert (tags["digits.variant"], tags["digits.rung"]) == ("v2", "1")
    assert columns["rung.digits"] == 1.0
    assert math.isnan(columns["last_latency_p50_ms"])


def test_after_a_restart_nothing_was_measured_and_what_serves_is_known() -> None:
    for now in (CHOSEN, LESSER):
        _, tags = tagged(LastRun(), {"digits": now})
        assert (tags["slot"], tags["variant"]) == ("digits", now.variant)
        assert tags["rung"] == str(now.rung)


def test_of_several_slots_without_ladders_each_says_its_own() -> None:
    _, tags = tagged(MEASURED, {"digits": Serves(variant="v1"), "shoes": Serves(variant="v3")})
    assert (tags["digits.variant"], tags["shoes.variant"]) == ("v1", "v3")
    assert (tags["shoes.rung"], tags["variant"]) == ("0", "v1")


def test_each_of_several_slots_says_its_own() -> None:
    columns, tags = tagged(MEASURED, {"digits": CHOSEN, "shoes": LESSER})
    assert (tags["slot"], tags["variant"], tags["rung"]) == ("digits", "v1", "0")
    assert (tags["shoes.variant"], tags["shoes.rung"]) == ("v2", "1")
    assert (columns["rung.digits"], columns["rung.shoes"]) == (0.0, 1.0)
    assert columns["last_latency_p50_ms"] == 2.0
