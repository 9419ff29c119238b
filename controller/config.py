"""The controller's settings: file < environment < flags, frozen, and strict about names."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

from controller.domain.telemetry import Bound, Retention
from controller.errors import UserError

ENVIRONMENT_PREFIX = "FITMENT_"
FILE_NAME = "controller.toml"
FILE_VARIABLE = "FITMENT_CONFIG"
NOT_SETTINGS = frozenset({FILE_VARIABLE, "FITMENT_SERVER", "FITMENT_TOKEN"})
"""Variables with our prefix that mean something else."""
FOREIGN_PREFIX = "FITMENT_AGENT_"
"""The agent's variables; both programs may run in one environment."""

ANY_HOSTS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - named, not bound
"""Hosts that mean every interface, and where this machine itself finds them."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_DAYS = ("telemetry_raw_days", "telemetry_hour_days", "telemetry_day_days")
_MOST_DAYS = 36_500
_LEAST_LEASE_S, _MOST_LEASE_S = 1.0, 3600.0
_MOST_INTERVAL_S = 86_400.0
_AT_LEAST_1 = ("fit_threads", "telemetry_raw_rows", "telemetry_rollup_rows")


class LinkChoice(enum.Enum):
    """How small and frequent messages travel."""

    AUTO = "auto"  # mosquitto as a child where it is installed, else the gRPC session
    MQTT = "mqtt"  # a broker, ours or the one of `mqtt_url`; refuse to start without
    GRPC = "grpc"  # the gRPC session only


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, under ``[controller]`` or as ``FITMENT_<NAME>``.

    A port of 0 takes a free one; the addresses in use are in ``data_dir/controller.json``.
    """

    data_dir: Path = Path("fitment-data")
    host: str = "127.0.0.1"  # where devices connect: enrol, gateway and our own broker
    public_host: str = ""  # the name that devices are told; empty: `host`
    enroll_port: int = 9443
    gateway_port: int = 9444
    mqtt_port: int = 8883
    rest_host: str = "127.0.0.1"  # operators; plain HTTP, so keep it on loopback or behind TLS
    rest_port: int = 8080
    dashboard: bool = True  # web pages beside REST, where NiceGUI is installed
    link: LinkChoice = LinkChoice.AUTO
    mqtt_url: str = ""  # mqtts://host:port of a broker that we do not start
    artifact_urls: str = ""  # mirrors of data_dir/blobs: https://models.example/{folder}/{hex} …
    offline_dir: Path | None = None  # keys of root and targets; None: data_dir/offline
    enrolment_by_approval: bool = False  # devices without a token may ask for an operator's word
    optimise: bool = True  # triggers start fits by themselves
    auto_approve: bool = False  # releases and rollouts that a trigger made need no operator
    fit_threads: int = 2  # processor threads of a fit worker
    standby: bool = False  # wait until no other controller acts on the data directory
    lease_s: float = 15.0  # a controller that is silent for this long may be replaced
    tick_s: float = 1.0  # pause between two looks at the world
    telemetry_interval_s: float = 5.0  # how often devices send a sample
    telemetry_raw_days: float = 7.0  # how long samples stay as devices sent them
    telemetry_raw_rows: int = 500_000  # and how many at most; about 1 kB each
    telemetry_hour_days: float = 90.0  # rollups by hour; a row a device, quantity and variant
    telemetry_day_days: float = 730.0  # rollups by day
    telemetry_rollup_rows: int = 1_000_000  # of either at most; about 0.6 kB each

    @property
    def told_host(self) -> str:
        """The host that devices are told to connect to."""
        return self.public_host or self.host

    @property
    def offline(self) -> Path:
        """Where the offline keys are."""
        return self.offline_dir or self.data_dir / "offline"

    @property
    def retention(self) -> Retention:
        """How much telemetry is kept, and for how long."""
        day_s, rollups = 86400.0, self.telemetry_rollup_rows
        return Retention(
            raw=Bound(age_s=self.telemetry_raw_days * day_s, rows=self.telemetry_raw_rows),
            hour=Bound(age_s=self.telemetry_hour_days * day_s, rows=rollups),
            day=Bound(age_s=self.telemetry_day_days * day_s, rows=rollups),
        )


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def load(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Settings from a TOML file, then the environment, then flags; flags of None are not set.

    Raises:
        UserError: an unknown key, a value of the wrong type, or an unreadable file. The message
            names the source and the key.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_environment(environment or {}))
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    values.update({key: _convert(key, value, "flag") for key, value in given.items()})
    return _checked(Settings(**values))


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the settings {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    unknown = sorted(set(document) - {"controller"})
    if unknown:
        raise UserError(f"{path}: unknown table or key '{unknown[0]}'; settings go in [controller]")
    table = document.get("controller", {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: [controller] must be a table")
    return {key: _convert(key, value, str(path)) for key, value in table.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, text in environment.items():
        ours = name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(FOREIGN_PREFIX)
        if ours and name not in NOT_SETTINGS:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[key] = _convert(key, text, f"environment variable {name}")
    return values


def _convert(key: str, value: object, source: str) -> Any:
    if key not in FIELDS:
        raise UserError(f"{source}: unknown setting '{key}'; known are {', '.join(sorted(FIELDS))}")
    kind = typing.get_type_hints(Settings)[key]
    try:
        return _parse(kind, value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: '{key}': {error}") from error


def _parse(kind: Any, value: object) -> Any:
    if kind is bool:
        return _parse_bool(value)
    if kind is int and isinstance(value, (int, str)) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)
    if kind is LinkChoice:
        return _parse_link(value)
    if kind in (Path, Path | None) and isinstance(value, (str, Path)) and str(value):
        return Path(value)
    if kind is str and isinstance(value, str):
        return value
    raise TypeError(f"{value!r} does not fit (expected {getattr(kind, '__name__', kind)})")


def _parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError(f"{value!r} is neither true nor false")


def _parse_link(value: object) -> LinkChoice:
    if isinstance(value, LinkChoice):
        return value
    names = [choice.value for choice in LinkChoice]
    if value not in names:
        raise ValueError(f"{value!r} is not one of {', '.join(names)}")
    return LinkChoice(value)


def _checked(settings: Settings) -> Settings:
    for key in ("enroll_port", "gateway_port", "mqtt_port", "rest_port"):
        port = getattr(settings, key)
        if not 0 <= port <= 65535:
            raise UserError(f"'{key}' is {port}: a port is between 0 (any free one) and 65535")
    _check_amounts(settings)
    if settings.host in ANY_HOSTS and not settings.public_host:
        raise UserError(
            f"'host' is {settings.host}, which devices cannot connect to:"
            " set 'public_host' to the name or address that they know"
        )
    if settings.mqtt_url and not settings.mqtt_url.startswith(("mqtts://", "mqtt+tls://")):
        raise UserError("'mqtt_url' must begin with mqtts://: certificates are the identity")
    return settings


def _check_amounts(settings: Settings) -> None:
    if not settings.tick_s > 0:
        raise UserError(f"'tick_s' is {settings.tick_s}: it must be more than 0")
    if not _LEAST_LEASE_S <= settings.lease_s <= _MOST_LEASE_S:
        raise UserError(
            f"'lease_s' is {settings.lease_s}: between {_LEAST_LEASE_S:g} and {_MOST_LEASE_S:g} s"
        )
    if not 0.1 <= settings.telemetry_interval_s <= _MOST_INTERVAL_S:
        raise UserError(
            f"'telemetry_interval_s' is {settings.telemetry_interval_s}: it is between 0.1 s and"
            f" {_MOST_INTERVAL_S:.0f} s"
        )
    for key in _DAYS:
        if not 0 < getattr(settings, key) <= _MOST_DAYS:
            raise UserError(
                f"'{key}' is {getattr(settings, key)}: more than 0 and at most {_MOST_DAYS} days"
            )
    for key in _AT_LEAST_1:
        if getattr(settings, key) < 1:
            raise UserError(f"'{key}' is {getattr(settings, key)}: it must be at least 1")
