"""Who a device is, and when its certificate should be renewed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.build import make_link, read_boot_id
from agent.config import Settings
from agent.desk import Folders
from agent.errors import ConfigError, NotEnrolledError
from agent.identity import Identity, connection, read_identity, renew_from_unix

RECORD = {
    "device": "cam-1", "gateway": "ctl:9444", "mqtt": "ctl:8883", "expires_unix": 1000.0,
    "enroll": "ctl:9443", "director_key_id": "sha256:x",
}  # fmt: skip
DAY_S = 86400.0


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(data_dir=tmp_path)
    made.keys.mkdir()
    (made.keys / "enrolment.json").write_text(json.dumps(RECORD))
    return made


def test_it_is_what_enrolment_wrote(folders: Folders) -> None:
    identity = read_identity(folders, Settings())
    assert (identity.device, identity.gateway, identity.mqtt) == ("cam-1", "ctl:9444", "ctl:8883")
    assert connection(folders, identity).key == str(folders.keys / "device.key")


def test_settings_win_over_what_was_told(folders: Folders) -> None:
    identity = read_identity(folders, Settings(gateway="a:1", mqtt="b:2"))
    assert (identity.gateway, identity.mqtt) == ("a:1", "b:2")


@pytest.mark.parametrize("content", ["", "[]", '{"gateway": "x"}'])
def test_a_damaged_identity_is_said(content: str, folders: Folders) -> None:
    (folders.keys / "enrolment.json").write_text(content)
    with pytest.raises(NotEnrolledError, match="anew"):
        read_identity(folders, Settings())


def test_without_one_the_mend_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolledError, match="fitment-agent enroll"):
        read_identity(Folders(data_dir=tmp_path), Settings())


@pytest.mark.parametrize(("life_days", "margin_days"), [(90.0, 7.0), (9.0, 3.0), (0.3, 0.1)])
def test_renewal_is_in_the_last_third_and_at_most_a_week_early(
    life_days: float, margin_days: float, folders: Folders
) -> None:
    certificate = folders.keys / "device.crt"
    certificate.write_text("")
    os.utime(certificate, (1000.0, 1000.0))
    identity = Identity(device="d", gateway="g", expires_unix=1000.0 + life_days * DAY_S)
    expected = identity.expires_unix - margin_days * DAY_S
    assert renew_from_unix(folders, identity) == pytest.approx(expected)


def test_what_is_not_known_is_not_renewed(folders: Folders) -> None:
    assert renew_from_unix(folders, Identity(device="d", gateway="g")) == float("inf")
    known = Identity(device="d", gateway="g", expires_unix=1.0)
    assert renew_from_unix(folders, known) == float("inf")


IDENTITY = Identity(device="cam-1", gateway="ctl:9444", mqtt="ctl:8883")


@pytest.mark.parametrize(
    ("link", "mqtt", "described"),
    [
        ("auto", "ctl:8883", "MQTT at mqtts://ctl:8883"),
        ("auto", "", "gRPC session at ctl:9444"),
        ("grpc", "ctl:8883", "gRPC session at ctl:9444"),
        ("mqtt", "mqtt://localhost:1", "MQTT at mqtt://localhost:1"),
    ],
)
def test_which_link(link: str, mqtt: str, described: str, folders: Folders) -> None:
    identity = replace(IDENTITY, mqtt=mqtt)
    made = make_link(Settings(link=link), folders, identity, boot_id="b")
    assert made.describe() == described
    made.stop()


def test_mqtt_without_a_broker_is_a_mistake(folders: Folders) -> None:
    with pytest.raises(ConfigError, match="named no broker"):
        make_link(Settings(link="mqtt"), folders, replace(IDENTITY, mqtt=""), boot_id="b")


def test_the_boot_has_a_name() -> None:
    assert len(read_boot_id()) >= 32
