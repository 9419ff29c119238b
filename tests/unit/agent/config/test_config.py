"""Settings: file < environment < flag, and no key that nobody reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.build import parse_broker
from agent.config import load
from agent.domain.allowance import Allowance, Metered, MeteredTransfers
from agent.errors import ConfigError
from agent.jobs import ServingOptions
from agent.ladder import LadderSettings

FULL = """
[agent]
device = "cam-1"
link = "mqtt"
mqtt = "broker:8883"
gateway = "ctl:9444"
fingerprint_interval_s = 5
memory_bytes = 1000000

[runtime]
enabled = ["onnx"]
threads = 2
disabled_optimizers = ["B", "A"]

[hardware]
root = "/board"
emulates = "jetson-orin-nano"

[serving]
sockets = "/run/fitment"
port = 8001
max_batch = 4
max_delay_ms = 1
p99_limit_ms = 20.5
max_waiting = 16
max_message_bytes = 65536
input_statistics_every = 0

[ladder]
interval_s = 1
throttle_c = 70.5
battery_percent = 40
memory_stall_percent = 20
memory_available_percent = 10
dwell_s = 5
calm_s = 6

[samples]
digits = "/srv/samples"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "config.toml").write_text(text)
    return folder


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = load(write(tmp_path, FULL))
    assert (settings.device, settings.link, settings.mqtt) == ("cam-1", "mqtt", "broker:8883")
    assert (settings.gateway, settings.fingerprint_interval_s) == ("ctl:9444", 5.0)
    assert (settings.memory_bytes, settings.enabled) == (1000000, ("onnx",))
    assert settings.options.threads == 2
    assert settings.options.disabled_optimizers == ("B", "A")
    assert (settings.hardware.root, settings.hardware.emulates) == ("/board", "jetson-orin-nano")
    assert settings.serving == ServingOptions(
        port=8001, max_batch=4, max_delay_ms=1.0, p99_limit_ms=20.5, max_waiting=16,
        max_message_bytes=65536, input_statistics_every=0,
    )  # fmt: skip
    ladder, limits = settings.ladder, settings.ladder.limits
    assert (ladder.interval_s, ladder.throttle_c) == (1, 70.5)
    assert (limits.battery_enter_percent, limits.battery_leave_percent) == (40, 50)
    assert (limits.stall_enter_percent, limits.stall_leave_percent) == (20, 4)
    assert (limits.available_enter_share, limits.available_leave_share) == (
        0.1,
        pytest.approx(0.17),
    )
    assert (limits.dwell_s, limits.calm_s) == (5, 6)
    assert settings.sockets == Path("/run/fitment")
    assert settings.samples == {"digits": Path("/srv/samples")}
    assert settings.data_dir == tmp_path


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.link, settings.enabled, settings.options.threads) == ("auto", None, 1)
    assert settings.memory_bytes is None
    assert settings.serving.port is None  # the socket alone
    assert settings.ladder == LadderSettings()


def test_the_environment_wins_over_the_file_and_the_flag_over_both(tmp_path: Path) -> None:
    file = write(tmp_path, FULL + "\n") / "config.toml"
    variables = {
        "FITMENT_AGENT_DATA_DIR": "/elsewhere", "FITMENT_AGENT_LINK": "grpc",
        "FITMENT_AGENT_RUNTIME_THREADS": "4", "FITMENT_AGENT_RUNTIME_ENABLED": "litert, onnx",
        "FITMENT_AGENT_FINGERPRINT_INTERVAL_S": "2.5", "OTHER": "x",
    }  # fmt: skip
    settings = load(file=file, environment=variables)
    assert (settings.data_dir, settings.link) == (Path("/elsewhere"), "grpc")
    assert (settings.options.threads, settings.enabled) == (4, ("litert", "onnx"))
    assert settings.fingerprint_interval_s == 2.5
    assert load(tmp_path, environment=variables).data_dir == tmp_path


def test_the_file_is_looked_for_where_the_data_is(tmp_path: Path) -> None:
    write(tmp_path, "[agent]\ndevice = 'found'")
    assert load(environment={"FITMENT_AGENT_DATA_DIR": str(tmp_path)}).device == "found"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[agent]\nlinks = 'auto'", r"\[agent\] has no 'links'; it has data_dir"),
        ("[agents]\nlink = 'auto'", r"'agents' is no table of the agent's; there are \[agent\]"),
        ("link = 'auto'", "'link' is no table"),
        ("[agent]\nlink = 1", "link must be text, not 1"),
        ("[agent]\nlink = 'mtqq'", "link is 'mtqq'; it may be auto, mqtt, grpc"),
        ("[runtime]\nthreads = 'two'", "threads must be a whole number"),
        ("[runtime]\nthreads = true", "threads must be a whole number"),
        ("[runtime]\nthreads = 0", "threads must be at least 1"),
        ("[runtime]\nenabled = 'onnx'", "enabled must be a list of texts"),
        ("[runtime]\nenabled = [1]", "enabled must be a list of texts"),
        ("[agent]\nfingerprint_interval_s = 0", "must be more than 0"),
        ("[agent]\nmemory_bytes = 0", "memory_bytes must be more than 0"),
        ("[serving]\nmax_batch = 0", "max_batch must be at least 1"),
        ("[serving]\nmax_delay_ms = -1", "cannot be below 0"),
        ("[serving]\np99_limit_ms = 0", "leave it out for no limit"),
        ("[serving]\nport = 65536", "from 1 to 65535"),
        ("[ladder]\ninterval_s = 0", "interval_s must be more than 0"),
        ("[ladder]\ncalm_s = -1", "dwell_s and calm_s cannot be below 0"),
        ("[ladder]\nbattery_percent = 101", "battery_percent must be from 0 to 100, not 101"),
        ("[samples]\ndigits = 1", "maps a slot to a folder"),
        ("samples = 1", "maps a slot to a folder"),
        ("[agent", "is not TOML"),
    ],
)
def test_mistakes_are_named_with_their_mend(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, text))


def test_an_allowance(tmp_path: Path) -> None:
    text = "[allowance]\ntransfer_bytes_per_month = 50_000_000\nmetered_transfers = 'allow'"
    variables = {"FITMENT_AGENT_ALLOWANCE_METERED": "never"}
    found = load(write(tmp_path, text), environment=variables).allowance
    assert found == Allowance(
        transfer_bytes_per_month=50_000_000, metered=Metered.NEVER,
        metered_transfers=MeteredTransfers.ALLOW,
    )  # fmt: skip
    assert load(tmp_path / "none").allowance == Allowance()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metered = 'sometimes'", "it may be 'auto', 'always', 'never'"),
        ("metered_transfers = 'maybe'", "it may be 'wait', 'allow'"),
        ("write_bytes_per_day = -1", "cannot be below 0"),
        ("month_starts_on = 31", "from 1 to 28"),
        ("transfer_bytes_per_month = '50 MB'", "must be a whole number"),
    ],
)
def test_an_allowance_that_makes_no_sense(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, f"[allowance]\n{text}"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FITMENT_AGENT_LNIK", "auto", "FITMENT_AGENT_LNIK is not known; there are"),
        ("FITMENT_AGENT_RUNTIME_THREADS", "two", "must be a whole number"),
        ("FITMENT_AGENT_FINGERPRINT_INTERVAL_S", "soon", "must be a number"),
    ],
)
def test_mistakes_in_the_environment_too(name: str, value: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, environment={name: value})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path, file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("broker:8883", ("broker", 8883, True)),
        ("mqtts://broker", ("broker", 8883, True)),
        ("mqtt://127.0.0.1:1", ("127.0.0.1", 1, False)),
        ("mqtt://localhost", ("localhost", 1883, False)),
        ("mqtts://[::1]:5", ("::1", 5, True)),
    ],
)
def test_addresses_of_brokers(address: str, parsed: tuple[str, int, bool]) -> None:
    assert parse_broker(address) == parsed


@pytest.mark.parametrize("address", ["mqtt://broker:1883", "http://x", "broker:port", ""])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError):
        parse_broker(address)
