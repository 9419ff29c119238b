"""The command line without a controller: what it offers, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from controller import cli
from controller.cli import common, fit, fleet_fit, rollouts
from controller.config import FIELDS
from controller.domain.fleet import Choice, Cohort, FitJob, JobStatus
from controller.errors import FitError, UserError


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return {path: command}
    found: dict[tuple[str, ...], Any] = {}
    for name, part in inner.items():
        found.update(commands(part, (*path, name)))
    return found


ALL = commands(get_command(cli.build_app()))


def test_every_command_has_help_and_answers_as_json() -> None:
    for path, command in ALL.items():
        assert command.help, path
        options = {text for parameter in command.params for text in parameter.opts}
        assert "--json" in options, path


def test_everything_that_was_promised_is_there() -> None:
    promised = (
        "serve, status, backup, restore, operator create, operator list, operator revoke,"
        " operator whoami, token create, device list, device show, device revoke,"
        " device readmit, model register,"
        " model list, model show, model approve, fit, release create, release show,"
        " release approve, rollout create, rollout status, rollout pause, rollout resume,"
        " rollout cancel, rollout revert, trigger list, trigger close, audit, trust init,"
        " group create,"
        " group list, group show, group members, group delete, device pending, device approve,"
        " device reject,"
        " device decommission, device history, device note, device label, device export,"
        " device import, rollout retry"
    )
    assert {tuple(name.split()) for name in promised.split(", ")} <= set(ALL)


def test_serve_has_a_flag_for_every_setting() -> None:
    names = {parameter.name for parameter in ALL["serve",].params}
    assert set(FIELDS) - {"tick_s"} <= names


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FITMENT_SERVER", "FITMENT_TOKEN", "FITMENT_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["device", "list"], ["token", "create"], ["model", "list"], ["audit"],
        ["fit", "some-model"], ["rollout", "list"], ["release", "show", "r"], ["trigger", "list"],
    ],
)  # fmt: skip
def test_without_a_controller_one_line_says_what_to_do(
    lonely: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.run([*arguments, "--data-dir", str(lonely)]) == cli.USER_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "fitment serve" in err


def test_without_a_token_it_says_where_one_is(
    lonely: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["status", "--server", "http://127.0.0.1:9", "--data-dir", str(lonely)]
    assert cli.run(arguments) == cli.USER_ERROR
    assert "FITMENT_TOKEN" in capsys.readouterr().err


def test_nobody_listens(
    lonely: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FITMENT_TOKEN", "t")
    monkeypatch.setenv("FITMENT_SERVER", "http://127.0.0.1:9")
    assert cli.run(["status"]) == cli.USER_ERROR
    assert "no controller answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "w", "--profile", "x86-server"], "both --profile and --out"),
        (["fit", "w", "--out", "o"], "both --profile and --out"),
        (["fit", "w", "--budget", "file_bytes_max=1"], "--budget goes with"),
        (["fit", "w", "--seed", "3"], "--seed goes with"),
        (["fit", "w", "--rungs", "winged"], "no rungs 'winged', only: slimmable"),
        (["fit", "w", "--profile", "p", "--out", "o", "--device", "d"], "are for the fleet"),
        (["fit", "w", "--profile", "p", "--out", "o", "--no-wait"], "are for the fleet"),
        (["token", "create", "--ttl", "soon"], "no duration"),
        (["token", "create", "--label", "lab"], "KEY=VALUE"),
        (["rollout", "create", "r", "--waves", "some"], "--waves takes shares"),
        (["rollout", "create", "r", "--waves", "nan,1"], "--waves takes shares"),
        (["rollout", "create", "r", "--slower", "inf"], "--slower takes a number"),
        (["serve", "--mqtt-url", "mqtt://x"], "mqtts://"),
        (["profile", "show", "no-such-board"], "no-such-board"),
    ],
)
def test_what_is_wrong_is_said_before_anything_happens(
    lonely: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.run(arguments) == cli.USER_ERROR
    assert words in capsys.readouterr().err


def test_an_unknown_option_is_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", "--fast"]) == cli.USER_ERROR
    assert "--fast" in capsys.readouterr().err


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    assert "rollout" in capsys.readouterr().out


def test_profiles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profile", "list", "--json"]) == 0
    names = {profile["name"] for profile in json.loads(capsys.readouterr().out)}
    assert names
    assert cli.run(["profile", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names)
    assert cli.run(["profile", "show", min(names)]) == 0


def test_trust_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trust", "init", "--data-dir", str(tmp_path / "d")]
    arguments += ["--offline-dir", str(tmp_path / "o"), "--json"]
    assert cli.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["ca_fingerprint"].startswith("sha256:")
    assert cli.run(arguments) == cli.FAILURE
    assert "not replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), ("1.5d", 129600.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert common.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1w", "-1s", "1 2"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UserError, match="duration"):
        common.duration_s(text)


def test_moments() -> None:
    assert (common.when(0.0), common.ago(0.0)) == ("-", "never")
    assert common.ago(time.time() - 7300) == "2h ago"
    assert common.when(1.0).startswith("19")


def test_shares() -> None:
    assert rollouts.shares("10%, 50%,1") == [0.1, 0.5, 1.0]


def test_limits() -> None:
    found = fit.limits(["file_bytes_max=90000", "latency_p95_max_ms=2.5"])
    assert found == {"file_bytes_max": 90000, "latency_p95_max_ms": 2.5}
    assert isinstance(found["file_bytes_max"], int)
    with pytest.raises(UserError, match="NAME=NUMBER"):
        fit.limits(["small"])


def test_examples_go_by_name() -> None:
    assert fit.find("fashion_mnist").name == "workload.py"
    with pytest.raises(UserError, match="fashion_mnist"):
        fit.find("no_such_thing")


def test_nothing_heavy_is_imported_for_help(root: Path) -> None:
    code = (
        "import sys; from controller.cli import build_app; build_app();"
        "print([n for n in ('torch', 'numpy', 'onnx', 'fastapi', 'sqlmodel', 'grpc', 'paho',"
        " 'tuf', 'httpx') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{root}:{root / 'protos'}"},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_fits_that_chose_nothing_anywhere_are_no_success() -> None:
    nothing = Choice(chosen="", reason="no variant keeps to the budget; int8 came closest: 2 % off")
    some = Choice(chosen="sha256:ab", reason="0.1 ms")

    def job(choice: Choice) -> FitJob:
        cohort = Cohort(profile="p", hardware="h", stack="s")
        return FitJob(
            id="j", model="m", cohort=cohort, status=JobStatus.DONE, created_at=0.0, choice=choice
        )

    with pytest.raises(FitError, match="2 % off: raise that limit"):
        fleet_fit.answer([job(nothing), job(nothing)], as_json=True)
    fleet_fit.answer([job(nothing), job(some)], as_json=True)
