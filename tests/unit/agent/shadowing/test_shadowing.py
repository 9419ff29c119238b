"""What is said of a candidate in the shadow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.shadowing import Asked, judge, render

ASKED = Asked(slot="shoes", bundle=Path("c"), inputs=20, timeout_s=5.0, agreement_min=0.95)
SEEN = {"name": "int8", "samples": 20, "dropped": 1, "agreement": 0.95, "errors": {}, "reason": ""}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"samples": 19}, "only 19 of 20 inputs came in 5 s"),
        ({"samples": 0, "agreement": None}, "only 0 of 20 inputs"),
        ({"agreement": 0.9}, "it agrees in 0.9000 of them, at least 0.95 is asked"),
        ({"errors": {"run_failed": 2}, "reason": "no"}, "it failed: no"),
    ],
)
def test_it_is_held_against_what_was_asked(changes: dict[str, Any], reason: str) -> None:
    found = judge(ASKED, {**SEEN, **changes})
    assert found.good is not bool(reason)
    assert reason in found.reason
    assert reason in render(found)


def test_people_are_told_what_it_saw() -> None:
    told = render(judge(ASKED, {**SEEN, "run_p50_ms": 2.0, "serving_run_p50_ms": 3.0}))
    assert told == (
        "int8 saw 20 live inputs (1 dropped) and agrees in 95.00 %. "
        "p50 of a run: 2 ms, at the lowest priority; what serves: 3."
    )


def test_where_nobody_serves_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shadow", "--data-dir", str(tmp_path), "--slot", "shoes"]
    assert main([*command, "--bundle", str(tmp_path)]) == 1
    assert "is no unpacked bundle" in capsys.readouterr().err
    assert main([*command, "--end"]) == 1
    assert "start it: fitment-agent serve --slot shoes" in capsys.readouterr().err
