"""The agent's settings: ``config.toml`` < environment ``FITMENT_AGENT_…`` < flags.

Frozen and strict: a key that nobody reads is an error, since a typing error that is silently
ignored shows up months later on a device that nobody can reach.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agent.errors import ConfigError
from agent.hardware import HardwareSettings
from agent.jobs import RuntimeOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX: Final = "FITMENT_AGENT_"
LINKS: Final = ("auto", "mqtt", "grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set."""

    data_dir: Path = Path("fitment-agent")
    device: str = ""  # wished name at enrolment
    link: str = "auto"  # one of LINKS; auto: MQTT where the controller has a broker
    fingerprint_interval_s: float = 60.0
    enabled: tuple[str, ...] | None = None  # runtimes that may be used; None: all installed
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    samples: Mapping[str, Path] = field(default_factory=dict)  # slot -> folder of .npy files
    memory_bytes: int | None = None  # limit of each worker that loads a model


_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "agent": ("data_dir", "device", "link", "fingerprint_interval_s", "memory_bytes"),
    "runtime": ("enabled", "threads", "disabled_optimizers"),
    "hardware": ("root", "emulates"),
}


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
        environment: variables, e.g. ``os.environ``.

    Raises:
        ConfigError: an unknown key, a wrong type or an unreadable file, named with its mend.
    """
    variables = environment or {}
    folder = data_dir or _path(variables.get(PREFIX + "DATA_DIR")) or Settings().data_dir
    source = file or folder / "config.toml"
    settings = replace(Settings(), data_dir=folder)
    if source.exists() or file is not None:
        settings = _from_document(_read(source), settings, source)
    settings = _from_environment(settings, variables)
    return replace(settings, data_dir=data_dir) if data_dir is not None else settings


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _from_document(document: dict[str, Any], settings: Settings, source: Path) -> Settings:
    for table, content in document.items():
        if table == "samples":
            continue
        if table not in _TABLES or not isinstance(content, dict):
            known = ", ".join(f"[{name}]" for name in (*_TABLES, "samples"))
            raise ConfigError(f"{source}: '{table}' is no table of the agent's; there are {known}")
        for key in content:
            if key not in _TABLES[table]:
                known = ", ".join(_TABLES[table])
                raise ConfigError(f"{source}: [{table}] has no '{key}'; it has {known}")
    read = _Reader(document, source)
    return _checked(
        replace(
            settings,
            data_dir=Path(read.text("agent", "data_dir", str(settings.data_dir))),
            device=read.text("agent", "device", settings.device),
            link=read.text("agent", "link", settings.link),
            fingerprint_interval_s=read.number(
                "agent", "fingerprint_interval_s", settings.fingerprint_interval_s
            ),
            memory_bytes=read.whole("agent", "memory_bytes", settings.memory_bytes),
            enabled=read.texts("runtime", "enabled"),
            options=RuntimeOptions(
                threads=read.whole("runtime", "threads", 1) or 1,
                disabled_optimizers=read.texts("runtime", "disabled_optimizers") or (),
            ),
            hardware=HardwareSettings(
                root=read.text("hardware", "root", "/"),
                emulates=read.text("hardware", "emulates", ""),
            ),
            samples=read.folders("samples"),
        ),
        source,
    )


class _Reader:
    """Values of a document, with their types checked."""

    def __init__(self, document: dict[str, Any], source: Path) -> None:
        self._document = document
        self._source = source

    def text(self, table: str, key: str, default: str) -> str:
        return str(self._get(table, key, default, str, "text"))

    def number(self, table: str, key: str, default: float) -> float:
        return float(self._get(table, key, default, (int, float), "a number"))

    def whole(self, table: str, key: str, default: int | None) -> int | None:
        value = self._get(table, key, default, int, "a whole number")
        return None if value is None else int(value)

    def texts(self, table: str, key: str) -> tuple[str, ...] | None:
        value = self._get(table, key, None, list, "a list of texts")
        if value is None:
            return None
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{self._source}: [{table}] {key} must be a list of texts")
        return tuple(value)

    def folders(self, table: str) -> dict[str, Path]:
        content = self._document.get(table, {})
        if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
            raise ConfigError(f"{self._source}: [{table}] maps a slot to a folder, each as text")
        return {slot: Path(folder) for slot, folder in content.items()}

    def _get(self, table: str, key: str, default: Any, kind: Any, words: str) -> Any:
        value = self._document.get(table, {}).get(key, default)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ConfigError(f"{self._source}: [{table}] {key} must be {words}, not {value!r}")
        return value


def _from_environment(settings: Settings, variables: Mapping[str, str]) -> Settings:
    known = {"DATA_DIR", "DEVICE", "LINK"}
    for name in variables:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known:
            raise ConfigError(f"{name} is not known; there are {', '.join(sorted(known))}")
    return _checked(
        replace(
            settings,
            data_dir=_path(variables.get(PREFIX + "DATA_DIR")) or settings.data_dir,
            device=variables.get(PREFIX + "DEVICE", settings.device),
            link=variables.get(PREFIX + "LINK", settings.link),
        ),
        "the environment",
    )


def _checked(settings: Settings, source: object) -> Settings:
    if settings.link not in LINKS:
        raise ConfigError(f"{source}: link is '{settings.link}'; it may be {', '.join(LINKS)}")
    if settings.fingerprint_interval_s <= 0:
        raise ConfigError(f"{source}: fingerprint_interval_s must be more than 0")
    if settings.options.threads < 1:
        raise ConfigError(f"{source}: [runtime] threads must be at least 1")
    return settings
