"""The broker's files as text, and that what `deploy/` shows is what runs."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from controller.gateway.broker_files import BrokerFiles, acl_text, config_text

FILES = BrokerFiles(folder=Path("/x"))
TEXT = config_text(FILES, host="127.0.0.1", port=8883, user="")
OURS_ALONE = frozenset({"user"})
PATHS = frozenset({"listener", "cafile", "certfile", "keyfile", "crlfile", "acl_file"})


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "line",
    [
        "per_listener_settings false", "require_certificate true", "allow_anonymous false",
        "use_identity_as_username true", "use_username_as_clientid true", "crlfile /x/crl.pem",
        "persistence false", "listener 8883 127.0.0.1",
    ],
)  # fmt: skip
def test_every_line_that_closes_a_hole_is_there(line: str) -> None:
    assert line in lines(TEXT)


def test_the_user_is_named_for_root_only() -> None:
    assert not [line for line in lines(TEXT) if line.startswith("user ")]
    assert "user root" in lines(config_text(FILES, host="::1", port=1, user="root"))


def test_a_device_has_its_own_and_a_revoked_one_nothing() -> None:
    assert lines(acl_text(["b", "a"])) == [
        "user ctl.1", "topic readwrite #",
        "user a", "topic deny #",
        "user b", "topic deny #",
        "pattern write fitment/v1/%u/up/#", "pattern read fitment/v1/%u/down/#",
    ]  # fmt: skip


def test_the_broker_that_is_shown_is_the_one_that_runs(root: Path) -> None:
    shown = lines((root / "deploy/broker/mosquitto.conf").read_text())
    ours = lines(TEXT)
    assert [line.split()[0] for line in shown] == [line.split()[0] for line in ours]
    rest = [line for line in ours if line.split()[0] not in PATHS]
    assert [line for line in shown if line.split()[0] not in PATHS] == rest
    assert lines((root / "deploy/broker/acl").read_text()) == lines(acl_text([]))


@pytest.mark.parametrize(
    "path",
    ["agent/fitment-agent.service", "agent/fitment-serve@.service", "controller/fitment.service"],
)
def test_units_start_what_is_installed(root: Path, path: str) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(root / "deploy" / path)
    command = unit["Service"]["ExecStart"].split()
    assert Path(command[0]).name in {"fitment", "fitment-agent"}
    assert unit["Service"]["User"] == "fitment"
    watched = path == "agent/fitment-agent.service"  # the only one that notifies
    assert ("WatchdogSec" in unit["Service"]) is watched
    assert unit["Service"]["Type"] == ("notify" if watched else "exec")
