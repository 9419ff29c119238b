"""The agent's settings: ``config.toml`` < environment ``FITMENT_AGENT_…`` < flags.

Frozen and strict: a key that nobody reads is an error, since a typing error that is silently
ignored shows up months later on a device that nobody can reach.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.domain.allowance import Allowance, Metered, MeteredTransfers
from agent.domain.ladder import Limits
from agent.errors import ConfigError
from agent.hardware import HardwareSettings
from agent.jobs import RuntimeOptions, ServingOptions
from agent.ladder import LadderSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX: Final = "FITMENT_AGENT_"
LINKS: Final = ("auto", "mqtt", "grpc")
Document = dict[str, dict[str, Any]]
E = TypeVar("E", bound=enum.Enum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set."""

    data_dir: Path = Path("fitment-agent")
    device: str = ""  # wished name at enrolment
    link: str = "auto"  # one of LINKS; auto: MQTT where the controller has a broker
    mqtt: str = ""  # address of the broker; empty: as told at enrolment
    gateway: str = ""  # address of the gateway; empty: as told at enrolment
    fingerprint_interval_s: float = 60.0
    time_zone: str = ""  # IANA name; empty: as the machine is set, where that is not UTC
    memory_bytes: int | None = None  # limit of each worker that loads a model
    enabled: tuple[str, ...] | None = None  # runtimes that may be used; None: all installed
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    serving: ServingOptions = field(default_factory=ServingOptions)
    ladder: LadderSettings = field(default_factory=LadderSettings)
    allowance: Allowance = field(default_factory=Allowance)
    sockets: Path | None = None  # folder of serving's sockets; None: ``serve`` in the data folder
    takeover_s: float = 60.0  # in which servers and applications take a variant on trial over
    samples: Mapping[str, Path] = field(default_factory=dict)  # slot -> folder of .npy files


class _Kind(enum.Enum):
    """What a value must be, in TOML and as the text of a variable."""

    TEXT = "text"  # as it is
    NUMBER = "a number"  # seconds, mostly
    WHOLE = "a whole number"  # counts and bytes
    TEXTS = "a list of texts"  # in a variable: separated by commas


_TABLES: Final[Mapping[str, Mapping[str, _Kind]]] = {
    "agent": {
        "data_dir": _Kind.TEXT,
        "device": _Kind.TEXT,
        "link": _Kind.TEXT,
        "mqtt": _Kind.TEXT,
        "gateway": _Kind.TEXT,
        "fingerprint_interval_s": _Kind.NUMBER,
        "time_zone": _Kind.TEXT,
        "memory_bytes": _Kind.WHOLE,
    },
    "runtime": {
        "enabled": _Kind.TEXTS,
        "threads": _Kind.WHOLE,
        "disabled_optimizers": _Kind.TEXTS,
    },
    "hardware": {"root": _Kind.TEXT, "emulates": _Kind.TEXT},
    "serving": {
        "sockets": _Kind.TEXT,
        "port": _Kind.WHOLE,
        "max_batch": _Kind.WHOLE,
        "max_delay_ms": _Kind.NUMBER,
        "p99_limit_ms": _Kind.NUMBER,
        "max_waiting": _Kind.WHOLE,
        "max_message_bytes": _Kind.WHOLE,
        "input_statistics_every": _Kind.WHOLE,
        "takeover_s": _Kind.NUMBER,
    },
    "ladder": {
        "interval_s": _Kind.NUMBER,
        "throttle_c": _Kind.NUMBER,
        "battery_percent": _Kind.NUMBER,
        "memory_stall_percent": _Kind.NUMBER,
        "memory_available_percent": _Kind.NUMBER,
        "dwell_s": _Kind.NUMBER,
        "calm_s": _Kind.NUMBER,
    },
    "allowance": {
        "transfer_bytes_per_month": _Kind.WHOLE,
        "write_bytes_per_day": _Kind.WHOLE,
        "month_starts_on": _Kind.WHOLE,
        "metered": _Kind.TEXT,
        "metered_transfers": _Kind.TEXT,
    },
}
_SAMPLES: Final = "samples"


def load(
    data_dir: Path | None = None,
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings of the agent whose data is in ``data_dir``.

    Args:
        data_dir: flag; wins over file and environment.
        file: TOML file; by default ``data_dir/config.toml`` where it is there.
        environment: variables, e.g. ``os.environ``. A key of ``[agent]`` is
            ``FITMENT_AGENT_<KEY>``, one of another table ``FITMENT_AGENT_<TABLE>_<KEY>``.

    Raises:
        ConfigError: an unknown key, a wrong type or an unreadable file, named with its mend.
    """
    spoken = _from_environment(environment or {})
    folder = data_dir or Path(spoken["agent"].get("data_dir", Settings().data_dir))
    source = file or folder / "config.toml"
    document: Document = {}
    if file is not None or source.exists():
        document = _from_file(source)
    samples = _samples(document.pop(_SAMPLES, {}), source)
    merged = {name: {**document.get(name, {}), **spoken[name]} for name in _TABLES}
    return _settings(merged, samples=samples, data_dir=data_dir, folder=folder)


def with_port(settings: Settings, port: int) -> Settings:
    """The same, with the serving port that a flag asks for.

    Raises:
        ConfigError: it is no port.
    """
    changed = replace(settings, serving=replace(settings.serving, port=port))
    _check(changed)
    return changed


def _from_file(path: Path) -> Document:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for table, content in document.items():
        if table != _SAMPLES:
            _check_table(path, table, content)
    return document


def _check_table(path: Path, table: str, content: object) -> None:
    if table not in _TABLES or not isinstance(content, dict):
        known = ", ".join(f"[{name}]" for name in (*_TABLES, _SAMPLES))
        raise ConfigError(f"{path}: '{table}' is no table of the agent's; there are {known}")
    for key, value in content.items():
        kind = _TABLES[table].get(key)
        if kind is None:
            known = ", ".join(_TABLES[table])
            raise ConfigError(f"{path}: [{table}] has no '{key}'; it has {known}")
        if not _fits(kind, value):
            raise ConfigError(f"{path}: [{table}] {key} must be {kind.value}, not {value!r}")


def _fits(kind: _Kind, value: object) -> bool:
    if isinstance(value, bool):
        return False
    if kind is _Kind.TEXT:
        return isinstance(value, str)
    if kind is _Kind.TEXTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, int) or (kind is _Kind.NUMBER and isinstance(value, float))


def _from_environment(variables: Mapping[str, str]) -> Document:
    names = {_variable(table, key): (table, key) for table in _TABLES for key in _TABLES[table]}
    document: Document = {table: {} for table in _TABLES}
    for name, text in variables.items():
        if not name.startswith(PREFIX):
            continue
        if name not in names:
            raise ConfigError(f"{name} is not known; there are {', '.join(sorted(names))}")
        table, key = names[name]
        document[table][key] = _parse(name, _TABLES[table][key], text)
    return document


def _variable(table: str, key: str) -> str:
    return PREFIX + ("" if table == "agent" else table.upper() + "_") + key.upper()


def _parse(name: str, kind: _Kind, text: str) -> object:
    try:
        if kind is _Kind.NUMBER:
            return float(text)
        if kind is _Kind.WHOLE:
            return int(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be {kind.value}, not {text!r}") from error
    if kind is _Kind.TEXTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _samples(content: object, source: Path) -> dict[str, Path]:
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise ConfigError(f"{source}: [{_SAMPLES}] maps a slot to a folder, each as text")
    return {slot: Path(folder) for slot, folder in content.items()}


def _settings(
    document: Document, *, samples: Mapping[str, Path], data_dir: Path | None, folder: Path
) -> Settings:
    agent, runtime, hardware = document["agent"], document["runtime"], document["hardware"]
    serving = dict(document["serving"])
    sockets, takeover_s = serving.pop("sockets", ""), serving.pop("takeover_s", 60.0)
    enabled = runtime.get("enabled")
    settings = Settings(
        data_dir=data_dir or Path(agent.get("data_dir", folder)),
        device=agent.get("device", ""),
        link=agent.get("link", "auto"),
        mqtt=agent.get("mqtt", ""),
        gateway=agent.get("gateway", ""),
        fingerprint_interval_s=float(agent.get("fingerprint_interval_s", 60.0)),
        time_zone=agent.get("time_zone", ""),
        memory_bytes=agent.get("memory_bytes"),
        enabled=None if enabled is None else tuple(enabled),
        options=RuntimeOptions(
            threads=runtime.get("threads", 1),
            disabled_optimizers=tuple(runtime.get("disabled_optimizers", ())),
        ),
        hardware=HardwareSettings(
            root=hardware.get("root", "/"), emulates=hardware.get("emulates", "")
        ),
        serving=ServingOptions(**serving),
        ladder=_ladder(document["ladder"]),
        allowance=_allowance(document["allowance"]),
        sockets=Path(sockets) if sockets else None,
        takeover_s=float(takeover_s),
        samples=samples,
    )
    _check(settings)
    return settings


def _ladder(table: Mapping[str, Any]) -> LadderSettings:
    """Each limit to leave keeps its distance from the one to enter that was set."""
    usual = Limits()
    battery = table.get("battery_percent", usual.battery_enter_percent)
    stall = table.get("memory_stall_percent", usual.stall_enter_percent)
    share = table.get("memory_available_percent", 100 * usual.available_enter_share) / 100
    limits = Limits(
        battery_enter_percent=battery,
        battery_leave_percent=battery + usual.battery_leave_percent - usual.battery_enter_percent,
        stall_enter_percent=stall,
        stall_leave_percent=stall * usual.stall_leave_percent / usual.stall_enter_percent,
        available_enter_share=share,
        available_leave_share=round(
            share + usual.available_leave_share - usual.available_enter_share, 6
        ),
        dwell_s=table.get("dwell_s", usual.dwell_s),
        calm_s=table.get("calm_s", usual.calm_s),
    )
    return LadderSettings(
        interval_s=table.get("interval_s", LadderSettings().interval_s),
        throttle_c=table.get("throttle_c"),
        limits=limits,
    )


def _allowance(table: Mapping[str, Any]) -> Allowance:
    usual = Allowance()
    return Allowance(
        transfer_bytes_per_month=table.get("transfer_bytes_per_month", 0),
        write_bytes_per_day=table.get("write_bytes_per_day", 0),
        month_starts_on=table.get("month_starts_on", usual.month_starts_on),
        metered=_one_of(Metered, "metered", table, usual.metered),
        metered_transfers=_one_of(
            MeteredTransfers, "metered_transfers", table, usual.metered_transfers
        ),
    )


def _one_of(kind: type[E], key: str, table: Mapping[str, Any], usual: E) -> E:
    try:
        return kind(table.get(key, usual.value))
    except ValueError:
        known = ", ".join(f"'{member.value}'" for member in kind)
        raise ConfigError(f"[allowance] {key} is '{table[key]}'; it may be {known}") from None


def _check_allowance(allowance: Allowance) -> None:
    if min(allowance.transfer_bytes_per_month, allowance.write_bytes_per_day) < 0:
        raise ConfigError("[allowance] bytes cannot be below 0; 0, or nothing, means no cap")
    if not 1 <= allowance.month_starts_on <= 28:
        raise ConfigError("[allowance] month_starts_on must be a day from 1 to 28")


def _check_ladder(ladder: LadderSettings) -> None:
    limits = ladder.limits
    if not ladder.interval_s > 0:
        raise ConfigError("[ladder] interval_s must be more than 0")
    if limits.dwell_s < 0 or limits.calm_s < 0:
        raise ConfigError("[ladder] dwell_s and calm_s cannot be below 0")
    shares = (
        ("battery_percent", limits.battery_enter_percent),
        ("memory_stall_percent", limits.stall_enter_percent),
        ("memory_available_percent", 100 * limits.available_enter_share),
    )
    for name, value in shares:
        if not 0 <= value <= 100:
            raise ConfigError(f"[ladder] {name} must be from 0 to 100, not {value:g}")


def _check(settings: Settings) -> None:
    if settings.link not in LINKS:
        raise ConfigError(f"link is '{settings.link}'; it may be {', '.join(LINKS)}")
    if not settings.fingerprint_interval_s > 0:
        raise ConfigError("fingerprint_interval_s must be more than 0")
    if settings.options.threads < 1:
        raise ConfigError("[runtime] threads must be at least 1")
    _check_serving(settings.serving)
    if not settings.takeover_s > 0:
        raise ConfigError("[serving] takeover_s must be more than 0")
    _check_ladder(settings.ladder)
    _check_allowance(settings.allowance)
    if settings.memory_bytes is not None and settings.memory_bytes < 1:
        raise ConfigError("memory_bytes must be more than 0; leave it out for no limit")


def _check_serving(serving: ServingOptions) -> None:
    for name in ("max_batch", "max_waiting", "max_message_bytes"):
        if getattr(serving, name) < 1:
            raise ConfigError(f"[serving] {name} must be at least 1")
    if serving.max_delay_ms < 0 or serving.input_statistics_every < 0:
        raise ConfigError("[serving] max_delay_ms and input_statistics_every cannot be below 0")
    if serving.port is not None and not 0 < serving.port < 1 << 16:
        raise ConfigError(
            "[serving] port must be from 1 to 65535; leave it out for the socket alone"
        )
    if serving.p99_limit_ms is not None and not serving.p99_limit_ms > 0:
        raise ConfigError("[serving] p99_limit_ms must be more than 0; leave it out for no limit")
