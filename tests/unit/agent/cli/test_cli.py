"""The command line: answers, exit codes, and messages that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import main
from agent.domain.record import SlotFacts
from agent.journal import open_journal
from agent.outbox import Outbox
from fitment.core.deployment import DeploymentState, Outcome
from tests.unit.agent.domain.orders import record


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("fitment-agent 0.")


@pytest.mark.parametrize("command", ["run", "status"])
def test_before_enrolment_the_mend_is_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--data-dir", str(tmp_path)]) == 3
    assert "fitment-agent enroll" in capsys.readouterr().err


def test_wrong_settings_end_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("[agent]\nlnik = 'auto'")
    assert main(["status", "--data-dir", str(tmp_path)]) == 2
    assert "has no 'lnik'" in capsys.readouterr().err


def test_status_for_people_and_for_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = open_journal(tmp_path / "journal.db")
    Outbox(journal)
    variant = "sha256:" + "ab" * 32
    journal.save_slot(
        SlotFacts(slot="digits", variant=variant, name="int8", counter=3, golden_ok=True,
                  calibration="c")
    )  # fmt: skip
    journal.save_slot(SlotFacts(slot="empty"))
    journal.save(record(DeploymentState.REPORTING, outcome=Outcome.ROLLED_BACK, reasons=("slow",)))
    journal.close()
    (tmp_path / "tally").write_text("\nt 1500\n")
    (tmp_path / "config.toml").write_text("[allowance]\ntransfer_bytes_per_month = 2000")
    assert main(["status", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "slot digits: int8 abababababab, release counter 3, calibrated, answers right" in text
    assert "slot empty: empty" in text
    assert "deployment d-1 to digits: rolled_back: slow" in text
    assert "allowance: this month 1500 bytes of 2000 bytes transferred" in text
    assert main(["status", "--data-dir", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["slots"][0]["variant"] == variant
    assert shown["telemetry_waiting"] == 0
    assert shown["allowance"]["transferred_bytes"] == 1500


def test_enrolling_nowhere_says_that_nobody_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "fit1.c2VjcmV0.".ljust(15, "x") + "0" * 64
    arguments = ["enroll", "--data-dir", str(tmp_path), "--controller", "127.0.0.1:1"]
    code = main([*arguments, "--token", token])
    assert code in (2, 4)
    assert "fitment-agent: " in capsys.readouterr().err
    assert main([*arguments, "--token", "rubbish"]) == 2
    assert "token" in capsys.readouterr().err


def test_the_doctor_answers_without_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--data-dir", str(tmp_path), "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["findings"]
