"""Settings: file < environment < flags, and nothing unknown passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import config
from controller.config import LinkChoice, Settings, load
from controller.errors import UserError


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "controller.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_on_loopback() -> None:
    settings = load()
    assert settings == Settings()
    assert (settings.host, settings.rest_host) == ("127.0.0.1", "127.0.0.1")
    ports = (settings.enroll_port, settings.gateway_port, settings.mqtt_port, settings.rest_port)
    assert ports == (9443, 9444, 8883, 8080)
    assert settings.offline == Path("fitment-data/offline")


def test_flags_beat_the_environment_beats_the_file(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        '[controller]\nenroll_port = 1\ngateway_port = 1\nrest_port = 1\nlink = "grpc"\n'
        'data_dir = "/srv"\ntick_s = 2\noptimise = false\n',
    )
    environment = {"FITMENT_GATEWAY_PORT": "2", "FITMENT_REST_PORT": "2", "HOME": "/root"}
    settings = load(file=path, environment=environment, flags={"rest_port": 3, "host": None})
    assert (settings.enroll_port, settings.gateway_port, settings.rest_port) == (1, 2, 3)
    assert settings.link is LinkChoice.GRPC
    assert settings.data_dir == Path("/srv")
    assert settings.tick_s == 2.0
    assert settings.optimise is False


@pytest.mark.parametrize("key", sorted(config.FIELDS))
def test_every_setting_can_come_from_the_environment(key: str) -> None:
    samples = {
        "link": "grpc", "optimise": "no", "auto_approve": "yes", "mqtt_url": "mqtts://b:1",
        "tick_s": "0.5", "dashboard": "no", "telemetry_raw_days": "0.5", "standby": "yes",
        "enrolment_by_approval": "yes",
    }  # fmt: skip
    text = samples.get(key, "7")
    settings = load(environment={f"FITMENT_{key.upper()}": text})
    assert getattr(settings, key) != getattr(Settings(), key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[controller]\nhots = 'x'", "unknown setting 'hots'"),
        ("host = 'x'", "settings go in \\[controller\\]"),
        ("controller = 3", "must be a table"),
        ("[controller", "not TOML"),
        ("[controller]\nrest_port = 'many'", "'rest_port'"),
        ("[controller]\nrest_port = true", "'rest_port'"),
        ("[controller]\nrest_port = 70000", "between 0"),
        ("[controller]\nlink = 'pigeon'", "auto, mqtt, grpc"),
        ("[controller]\noptimise = 'perhaps'", "neither true nor false"),
        ("[controller]\ndata_dir = ''", "'data_dir'"),
        ("[controller]\nhost = 3", "'host'"),
        ("[controller]\ntick_s = 0", "more than 0"),
        ("[controller]\nfit_threads = 0", "at least 1"),
        ("[controller]\ntelemetry_raw_days = 0", "'telemetry_raw_days'"),
        ("[controller]\ntelemetry_hour_days = nan", "'telemetry_hour_days'"),
        ("[controller]\ntelemetry_day_days = inf", "'telemetry_day_days'"),
        ("[controller]\ntelemetry_rollup_rows = 0", "at least 1"),
        ("[controller]\nhost = '0.0.0.0'", "public_host"),
        ("[controller]\nmqtt_url = 'mqtt://plain'", "mqtts://"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(file=file(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read.*none\.toml"):
        load(file=tmp_path / "none.toml")


def test_an_unknown_variable_is_an_error_and_others_variables_are_not() -> None:
    with pytest.raises(UserError, match="FITMENT_HOTS"):
        load(environment={"FITMENT_HOTS": "x"})
    others = {"FITMENT_AGENT_DATA_DIR": "/x", "FITMENT_SERVER": "http://x", "FITMENT_TOKEN": "t"}
    assert load(environment=others) == Settings()


def test_a_host_that_devices_know_makes_any_address_fine() -> None:
    settings = load(flags={"host": "0.0.0.0", "public_host": "fleet.example"})
    assert settings.told_host == "fleet.example"
