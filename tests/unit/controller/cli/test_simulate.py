"""``fitment simulate``: what it answers, and what it refuses."""

from __future__ import annotations

import json

import pytest

from controller.cli import run


def test_it_answers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["simulate", "--devices", "20", "--scenario", "bad-release", "--seed", "3", "--json"]
    assert run(asked) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["devices"] == 20
    assert said["halted"] is True
    assert said["completed"] is False
    assert 1 <= said["exposed_at_halt"] <= said["exposure_bound"]
    assert said["seconds"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scenario", "sunshine"], "There are: good-release"),
        (["--scenario", "month", "--devices", "5"], "needs --devices 9 or more"),
        (["--devices", "0"], "from 1 on"),
        (["--profile-mix", "toaster=1"], "no board of profile 'toaster'"),
        (["--profile-mix", "rk3588"], "takes shares"),
    ],
)
def test_what_cannot_be_simulated(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *options]) == 2
    assert words in capsys.readouterr().err
