"""A fingerprint counts when it was seen twice; settings when their file was written to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from agent.config import Settings
from agent.errors import ConfigError
from agent.hardware import BoardError
from agent.watch import CONFIRM_S, FingerprintWatch, SettingsWatch
from fitment.core.fingerprint import Facet, Fingerprint

SETTINGS = Settings(fingerprint_interval_s=60.0)


def fingerprint(stack: str) -> Fingerprint:
    empty = Facet.of({})
    return Fingerprint(chassis=empty, hardware=empty, stack=Facet.of({"s": stack}), condition=empty)


def test_a_change_is_looked_at_again_soon() -> None:
    now = {"is": fingerprint("1"), "reads": 0}

    def read(_settings: Settings) -> Fingerprint:
        now["reads"] += 1  # type: ignore[operator]
        return now["is"]  # type: ignore[return-value]

    watch = FingerprintWatch(read)
    assert watch.tick(SETTINGS, 0.0)
    assert not watch.tick(SETTINGS, 59.0)
    assert now["reads"] == 1
    now["is"] = fingerprint("2")
    assert not watch.tick(SETTINGS, 60.0)
    assert watch.fingerprint == fingerprint("1")
    assert watch.tick(SETTINGS, 60.0 + CONFIRM_S)
    assert watch.fingerprint == fingerprint("2")
    watch.soon()
    assert not watch.tick(SETTINGS, 62.0)
    assert now["reads"] == 4


def test_a_board_that_is_none_is_a_note_and_the_old_fingerprint_stays() -> None:
    answers: list[Fingerprint | None] = [fingerprint("1"), None, None, fingerprint("1")]

    def read(_settings: Settings) -> Fingerprint:
        answer = answers.pop(0)
        if answer is None:
            raise BoardError("no board 'x'")
        return answer

    watch = FingerprintWatch(read)
    watch.tick(SETTINGS, 0.0)
    watch.soon()
    assert watch.tick(SETTINGS, 1.0)
    assert "no board" in watch.problem
    assert watch.fingerprint == fingerprint("1")
    watch.soon()
    assert not watch.tick(SETTINGS, 2.0)
    watch.soon()
    assert watch.tick(SETTINGS, 3.0)
    assert watch.problem == ""


def test_settings_are_read_when_their_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    loaded: list[Settings | str] = [replace(SETTINGS, device="new"), "a typing error"]

    def load() -> Settings:
        answer = loaded.pop(0)
        if isinstance(answer, str):
            raise ConfigError(answer)
        return answer

    watch = SettingsWatch(SETTINGS, load, path)
    assert not watch.tick()
    path.write_text("a")
    assert watch.tick()
    assert not watch.tick()
    assert watch.settings.device == "new"
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    assert watch.tick()
    assert watch.settings.device == "new"
    assert "typing error" in watch.problem
