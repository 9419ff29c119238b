"""What a profile says, and how its TOML is read.

A profile is data: what a class of device can run and measure. Unknown keys and statements that
contradict each other are refused with the file, the key and what to write instead; a typing error
that is silently ignored would choose the wrong variant for a whole fleet.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fitment.core.kernels import SCHEMES
from profiles.errors import ProfileError
from profiles.table import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMATS: Mapping[str, str] = {"onnx": "onnx", "litert": "tflite"}
"""Runtimes that Fitment makes artifacts for, with the format each of them reads."""

CALIBRATIONS = ("patch", "rebuild", "none")
"""How calibration on the device reaches the artifact: bytes patched, an engine rebuilt, not."""

RULES = ("per_tensor", "centred", "power_of_two")
"""What integer arithmetic may ask of static int8: one scale for all weights of a layer, activations
whose zero point is the middle of the type, scales that are powers of two."""

ENERGY_SENSORS = ("ina3221", "rapl", "hwmon", "pi-pmic", "battery")
SENSORS = ("psi", "cpufreq", "thermal", "x86-throttle", "pi-throttled", *ENERGY_SENSORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRule:
    """Which fingerprints the profile is for.

    All conditions that are given must hold; of each, one value is enough.
    """

    machine: tuple[str, ...] = ()
    compatible: tuple[str, ...] = ()  # whole device-tree tokens, "brcm,bcm2712"
    model: tuple[str, ...] = ()  # parts of the model's name
    soc_model: tuple[str, ...] = ()  # Android's ro.soc.model
    android: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSupport:
    """One runtime of the class of device."""

    name: str  # "onnx", "litert"
    format: str  # "onnx", "tflite"
    versions: str = ""  # ">=1.20,<2"; empty: any
    schemes: tuple[str, ...] = ("fp32",)  # likely fastest first: a hint, the probe decides
    calibration: str = "none"  # one of CALIBRATIONS
    rules: tuple[str, ...] = ()  # of RULES: what its integer arithmetic cannot do without
    threads: int = 1

    def accepts(self, version: str) -> bool:
        """Whether a runtime of this version (``1.32``) is in range."""
        return all(_holds(_numbers(version), bound) for bound in _bounds(self.versions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A part of the device beside its CPU. Data, so that a choice can say why it is unused."""

    name: str
    toolchain: str  # what makes its artifacts
    available: bool = False  # whether Fitment can target it now
    why: str = ""  # why not


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileBudget:
    """Limits that come with the class of device; a model's own budget is stricter or wins.

    None means not asked.
    """

    accuracy_drop_max: float | None = None
    agreement_min: float | None = None
    latency_p95_max_ms: float | None = None
    file_bytes_max: int | None = None
    wire_bytes_max: int | None = None
    peak_memory_max_bytes: int | None = None
    energy_max_mj: float | None = None
    lesser_accuracy_drop_max: float | None = None  # set: releases have lesser variants, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One class of device."""

    name: str
    title: str
    match: MatchRule
    runtimes: tuple[RuntimeSupport, ...]
    budget: ProfileBudget = field(default_factory=ProfileBudget)
    channels_multiple_of: int = 1  # of pruned layers; 1 where no better number is known
    sensors: tuple[str, ...] = ()
    throttle_c: float | None = None  # at which it cuts its clocks, where its kernel does not say
    accelerators: tuple[Accelerator, ...] = ()
    notes: str = ""

    def runtime(self, name: str) -> RuntimeSupport | None:
        """The runtime of this name, or None."""
        return next((runtime for runtime in self.runtimes if runtime.name == name), None)

    def unused_accelerators(self) -> tuple[str, ...]:
        """A sentence for each accelerator that no artifact is made for."""
        return tuple(
            f"{a.name} is not used ({a.toolchain}): {a.why}"
            for a in self.accelerators
            if not a.available
        )


def parse_profile(text: str, origin: str) -> Profile:
    """Read one profile.

    Args:
        text: TOML.
        origin: file name for errors.

    Raises:
        ProfileError: not TOML, an unknown key, a wrong type, or a contradiction.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{origin}: not valid TOML: {error}") from error
    table = Table(values, origin)
    profile = Profile(
        name=table.text("name"),
        title=table.text("title"),
        match=_match(table.table("match")),
        runtimes=tuple(_runtime(runtime) for runtime in table.tables("runtime")),
        budget=_budget(table.table("budget", required=False)),
        channels_multiple_of=table.integer("channels_multiple_of", default=1, low=1),
        sensors=table.choices("sensors", SENSORS),
        throttle_c=table.number("throttle_c", low=0, high=150),
        accelerators=tuple(_accelerator(part) for part in table.tables("accelerator")),
        notes=table.text("notes", default="").strip(),
    )
    table.done()
    _check(profile, origin)
    return profile


def _match(table: Table) -> MatchRule:
    rule = MatchRule(
        machine=table.texts("machine"),
        compatible=table.texts("compatible"),
        model=table.texts("model"),
        soc_model=table.texts("soc_model"),
        android=table.flag("android"),
    )
    table.done()
    if rule == MatchRule():
        raise table.error("no condition", "give one of machine, compatible, model, soc_model")
    return rule


def _runtime(table: Table) -> RuntimeSupport:
    runtime = RuntimeSupport(
        name=table.choice("name", tuple(FORMATS)),
        format=table.choice("format", tuple(FORMATS.values())),
        versions=table.text("versions", default=""),
        schemes=table.choices("schemes", SCHEMES),
        calibration=table.choice("calibration", CALIBRATIONS),
        threads=table.integer("threads", default=1, low=1),
        rules=table.choices("rules", RULES),
    )
    table.done()
    wanted = FORMATS[runtime.name]
    if runtime.format != wanted:
        raise table.error(f"'{runtime.name}' does not read '{runtime.format}'", f"write '{wanted}'")
    if "fp32" not in runtime.schemes:
        raise table.error("schemes lack 'fp32'", "add it: every choice is compared with it")
    try:
        _bounds(runtime.versions)
    except ValueError as error:
        raise table.error(f"versions: {error}", "write for example '>=1.20,<2'") from error
    return runtime


def _accelerator(table: Table) -> Accelerator:
    part = Accelerator(
        name=table.text("name"),
        toolchain=table.text("toolchain"),
        available=bool(table.flag("available")),
        why=table.text("why", default=""),
    )
    table.done()
    if part.available == bool(part.why):
        raise table.error(
            "'available' and 'why' contradict each other",
            "an accelerator is available, or 'why' says why it is not",
        )
    return part


def _budget(table: Table) -> ProfileBudget:
    budget = ProfileBudget(
        accuracy_drop_max=table.number("accuracy_drop_max", low=0, high=1),
        agreement_min=table.number("agreement_min", low=0, high=1),
        latency_p95_max_ms=table.number("latency_p95_max_ms", low=0),
        file_bytes_max=table.whole("file_bytes_max"),
        wire_bytes_max=table.whole("wire_bytes_max"),
        peak_memory_max_bytes=table.whole("peak_memory_max_bytes"),
        energy_max_mj=table.number("energy_max_mj", low=0),
        lesser_accuracy_drop_max=table.number("lesser_accuracy_drop_max", low=0, high=1),
    )
    table.done()
    memory, file = budget.peak_memory_max_bytes, budget.file_bytes_max
    if memory is not None and file is not None and memory < file:
        raise table.error(
            f"peak_memory_max_bytes ({memory}) is below file_bytes_max ({file})",
            "a loaded model needs at least its own size: raise the first or lower the other",
        )
    return budget


def _check(profile: Profile, origin: str) -> None:
    if not profile.runtimes:
        raise ProfileError(f"{origin}: no [[runtime]]: add one, or the device can run nothing")
    names = [runtime.name for runtime in profile.runtimes]
    if len(set(names)) != len(names):
        raise ProfileError(f"{origin}: a [[runtime]] is given twice: merge them ({names})")
    if profile.budget.energy_max_mj is not None and not set(profile.sensors) & set(ENERGY_SENSORS):
        raise ProfileError(
            f"{origin}: [budget] energy_max_mj is set and no sensor measures energy: "
            f"add one of {', '.join(ENERGY_SENSORS)} to 'sensors', or remove the limit"
        )


def _bounds(versions: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    bounds = []
    for part in (piece.strip() for piece in versions.split(",")):
        if not part:
            continue
        sign = next((s for s in (">=", "<=", "==", ">", "<") if part.startswith(s)), "")
        if not sign:
            raise ValueError(f"'{part}' does not begin with >=, <=, ==, > or <")
        bounds.append((sign, _numbers(part[len(sign) :].strip())))
    return tuple(bounds)


def _numbers(version: str) -> tuple[int, ...]:
    pieces = version.split(".")
    if not all(piece.isdigit() for piece in pieces):
        raise ValueError(f"'{version}' is not a version such as 1.20")
    return tuple(int(piece) for piece in pieces)


def _holds(version: tuple[int, ...], bound: tuple[str, tuple[int, ...]]) -> bool:
    sign, limit = bound
    size = max(len(version), len(limit))
    left = version + (0,) * (size - len(version))
    right = limit + (0,) * (size - len(limit))
    return {
        ">=": left >= right,
        "<=": left <= right,
        "==": left == right,
        ">": left > right,
        "<": left < right,
    }[sign]
