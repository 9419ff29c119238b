"""The doctor on this machine, on boards, and on a device that has nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent import doctor
from agent.doctor import Level, diagnose, render
from agent.hardware import HardwareSettings, boards
from agent.jobs import RuntimeOptions
from fitment.core import plain
from fitment.core.deployment import AllowanceReport

LATER = 1_900_000_000.0


def look(root: Path | str, data: Path, emulates: str = "", now: float = LATER) -> doctor.Diagnosis:
    return diagnose(
        root, HardwareSettings(emulates=emulates), RuntimeOptions(), data,
        run=lambda _: None, now=lambda: now,
    )  # fmt: skip


def found(diagnosis: doctor.Diagnosis, subject: str) -> doctor.Finding:
    return next(finding for finding in diagnosis.findings if finding.subject == subject)


def test_this_machine_is_healthy(tmp_path: Path) -> None:
    diagnosis = look("/", tmp_path / "not" / "yet")
    assert diagnosis.healthy
    assert diagnosis.profile
    assert diagnosis.fingerprint is not None
    text = render(diagnosis)
    for facet in ("chassis", "hardware", "stack", "condition"):
        short = getattr(diagnosis.fingerprint, facet).hash[7:19]
        assert short in text
    assert not (tmp_path / "not").exists(), "a doctor changes nothing"


def test_it_says_what_is_left_of_an_allowance(tmp_path: Path) -> None:
    used = AllowanceReport(
        transferred_bytes=41_000_000, transfer_bytes_per_month=50_000_000, written_bytes=7,
        metered=True, metered_why="wwan0 is a modem's line",
    )  # fmt: skip
    diagnosis = diagnose(
        tmp_path, HardwareSettings(), RuntimeOptions(), tmp_path, run=lambda _: None,
        now=lambda: LATER, allowance=used,
    )  # fmt: skip
    assert diagnosis.healthy
    assert found(diagnosis, "transfers").message == "41.0 MB of 50.0 MB this month"
    assert found(diagnosis, "transfers").level is Level.WARN
    assert found(diagnosis, "writes").message == "7 bytes, no cap today"
    assert "wait for another link" in found(diagnosis, "link").mend


def test_a_device_with_nothing_still_gets_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "installed", dict)
    diagnosis = look(tmp_path / "empty", tmp_path)
    assert diagnosis.healthy
    assert found(diagnosis, "runtime").mend.startswith("pip install 'fitment[onnx]'")
    assert "no runtime installed" in render(diagnosis)
    assert "no profile matches no facts" in found(diagnosis, "profile").message
    for sensor in ("pressure", "clocks", "temperature", "energy"):
        assert found(diagnosis, sensor).message.startswith("unavailable: ")


def test_a_board_in_emulation(tmp_path: Path) -> None:
    diagnosis = look("/", tmp_path, "rk3588")
    assert diagnosis.profile == "rk3588"
    assert found(diagnosis, "emulation").level is Level.WARN
    assert found(diagnosis, "accelerator").message.startswith("RKNPU is not used")


def test_sensors_that_are_there(unpack, tmp_path: Path) -> None:
    diagnosis = look(unpack("x86-laptop"), tmp_path)
    assert found(diagnosis, "energy").message == "measured by rapl:package-0, scope package"
    assert found(diagnosis, "temperature").message == "61 °C"


def test_an_unknown_board_fails_with_its_mend(tmp_path: Path) -> None:
    diagnosis = look("/", tmp_path, "pdp-11")
    assert not diagnosis.healthy
    assert found(diagnosis, "fingerprint").mend == "correct 'emulates' in config.toml"
    assert "1 failed" in render(diagnosis)


@pytest.mark.parametrize(
    ("now", "level"), [(0.0, Level.WARN), (doctor.EARLIEST_UNIX, Level.OK), (LATER, Level.OK)]
)
def test_a_device_back_from_1970(tmp_path: Path, now: float, level: Level) -> None:
    assert found(look("/", tmp_path, now=now), "clock").level is level


@pytest.mark.parametrize(
    ("free", "level"), [(1 << 20, Level.FAIL), (128 << 20, Level.WARN), (1 << 30, Level.OK)]
)
def test_disk_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    class Stat:
        f_bavail = free // 4096
        f_frsize = 4096

    monkeypatch.setattr(doctor.os, "statvfs", lambda _: Stat)
    assert found(look("/", tmp_path), "disk").level is level


def test_a_runtime_out_of_range_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.hardware import runtimes

    monkeypatch.setattr(runtimes, "installed", lambda: {"onnxruntime": "1.17.3"})
    diagnosis = look(boards.unpack("raspberry-pi-5", tmp_path / "pi"), tmp_path)
    assert found(diagnosis, "onnx").message == "version 1.17 is outside >=1.20"


def test_json_comes_from_plain(tmp_path: Path) -> None:
    diagnosis = look("/", tmp_path)
    text = json.dumps(plain.to_plain(diagnosis))
    assert plain.from_plain(doctor.Diagnosis, json.loads(text)) == diagnosis
