"""Sensors of boards and machines that give power or energy: hwmon, INA3221, RAPL, PMIC, battery.

Each function returns a meter, or a sentence that says why this device has none of its kind.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.sensors.meter import Clock, Counter, CounterMeter, Meter, PowerMeter, Source
from agent.sysfs import Run, Tree, find, integer, text
from fitment.core.measurement import ReadingStatus

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that carry the whole board: Orin and Xavier NX, Nano. The others lie behind them."""

AGX_RAILS = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
"""AGX Xavier has no total rail; these add up to the module."""

PMIC_GAIN, PMIC_OFFSET_W = 1.1451, 0.5879
"""Raspberry Pi 5: board power from the sum of its PMIC rails, a fit of its users. An estimate."""

BATTERY_PLAUSIBLE_W = (0.05, 15.0)
"""Vendors disagree about sign and unit of current_now; what lies outside is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where sensors are looked for."""

    tree: Tree
    run: Run
    clock: Clock = time.monotonic


# RAPL ------------------------------------------------------------------------------------------


def rapl(machine: Machine) -> Meter | str:
    """Intel and AMD package counters. Zones nest, so only the packages count; MMIO is a twin."""
    tree = machine.tree
    zones = [
        folder
        for folder in find(tree, "sys/class/powercap/intel-rapl:*")
        if folder.count(":") == 1 and (text(tree, f"{folder}/name") or "").startswith("package")
    ]
    if not zones:
        return "no RAPL package below /sys/class/powercap"
    for zone in zones:
        problem = tree.problem(f"{zone}/energy_uj")
        if problem:
            return f"/{zone}/energy_uj: {problem} (readable by root only on most systems)"
    counters = [_rapl_counter(tree, zone) for zone in zones]
    names = "+".join(counter.name for counter in counters)
    # The counters move about every millisecond.
    source = Source(method=f"rapl:{names}", scope="package", interval_s=0.05)
    return CounterMeter(counters, source=source, clock=machine.clock)


def _rapl_counter(tree: Tree, zone: str) -> Counter:
    return Counter(
        name=text(tree, f"{zone}/name") or zone,
        read_uj=lambda: integer(tree, f"{zone}/energy_uj"),
        range_uj=integer(tree, f"{zone}/max_energy_range_uj"),
    )


# INA3221 ---------------------------------------------------------------------------------------


def ina3221(machine: Machine) -> Meter | str:
    """Jetson power monitor, in the layout of JetPack 5 and later (hwmon) or of 4 (iio)."""
    rails = _ina_hwmon(machine.tree) or _ina_iio(machine.tree)
    if not rails:
        return "no INA3221 power monitor"
    chosen = [name for name in TOTAL_RAILS if name in rails][:1]
    chosen = chosen or [name for name in AGX_RAILS if name in rails]
    if not chosen:
        return f"INA3221 rails {', '.join(sorted(rails))}: none is known to carry the board"
    readers = [rails[name] for name in chosen]
    update_ms = _update_interval_ms(machine.tree)
    source = Source(
        method=f"ina3221:{'+'.join(chosen)}",
        scope="board" if chosen[0] in TOTAL_RAILS else "module",
        interval_s=max(update_ms or 0, 20) / 1000,
    )
    return PowerMeter(lambda: _sum(readers), source=source, clock=machine.clock)


def _ina_hwmon(tree: Tree) -> dict[str, Callable[[], float | None]]:
    rails: dict[str, Callable[[], float | None]] = {}
    for folder in _hwmons(tree, "ina3221"):
        for label_path in find(tree, f"{folder}/in*_label"):
            label = text(tree, label_path) or ""
            channel = label_path.rsplit("/in", 1)[1].removesuffix("_label")
            # 4 and up are shunt voltages and their sum; NC is a pin that is not connected.
            if channel in ("1", "2", "3") and label and "NC" not in label.split():
                rails[label] = _milli_product(
                    tree, f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input"
                )
    return rails


def _ina_iio(tree: Tree) -> dict[str, Callable[[], float | None]]:
    rails: dict[str, Callable[[], float | None]] = {}
    base = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
    for name_path in find(tree, f"{base}/rail_name_*"):
        folder, channel = name_path.rsplit("/rail_name_", 1)
        label = text(tree, name_path) or ""
        if label and "NC" not in label:
            rails[label] = _milli_product(
                tree, f"{folder}/in_voltage{channel}_input", f"{folder}/in_current{channel}_input"
            )
    return rails


def _update_interval_ms(tree: Tree) -> int | None:
    values = [integer(tree, f"{folder}/update_interval") for folder in _hwmons(tree, "ina3221")]
    return max((value for value in values if value is not None), default=None)


def _hwmons(tree: Tree, name: str) -> tuple[str, ...]:
    """Folders by the chip's name: the numbers of hwmon change from boot to boot."""
    folders = find(tree, "sys/class/hwmon/hwmon*") + find(
        tree, "sys/bus/i2c/devices/*/hwmon/hwmon*"
    )
    named = {
        folder.rsplit("/", 1)[1]: folder
        for folder in folders
        if text(tree, f"{folder}/name") == name
    }
    return tuple(named.values())


def _milli_product(tree: Tree, milli_volts: str, milli_amperes: str) -> Callable[[], float | None]:
    def read_w() -> float | None:
        volts, amperes = integer(tree, milli_volts), integer(tree, milli_amperes)
        return None if volts is None or amperes is None else volts * amperes / 1e6

    return read_w


# Generic hwmon ---------------------------------------------------------------------------------


def hwmon(machine: Machine) -> Meter | str:
    """Any chip with a power reading (``powerN_average`` or ``powerN_input``, in microwatts)."""
    tree = machine.tree
    for pattern in ("power*_average", "power*_input"):
        for path in find(tree, f"sys/class/hwmon/hwmon*/{pattern}"):
            if integer(tree, path) is None:
                continue
            folder, name = path.rsplit("/", 1)
            chip = text(tree, f"{folder}/name") or "hwmon"
            label = text(tree, f"{folder}/{name.split('_')[0]}_label") or name.split("_")[0]
            source = Source(method=f"hwmon:{chip}/{label}", scope="rail")
            return PowerMeter(_micro(tree, path), source=source, clock=machine.clock)
    return "no power reading below /sys/class/hwmon"


def _micro(tree: Tree, path: str) -> Callable[[], float | None]:
    def read_w() -> float | None:
        value = integer(tree, path)
        return None if value is None else value / 1e6

    return read_w


# Raspberry Pi 5 --------------------------------------------------------------------------------

_PMIC_LINE = re.compile(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$")


def pi_pmic(machine: Machine) -> Meter | str:
    """Raspberry Pi 5: rails of its PMIC. Converter losses and USB are outside, so an estimate."""
    model = text(machine.tree, "proc/device-tree/model") or ""
    if not re.match(r"Raspberry Pi (5|500|Compute Module 5)\b", model):
        return "no Raspberry Pi 5 (older ones cannot measure current)"
    run = machine.run
    if pmic_watts(run(("vcgencmd", "pmic_read_adc")) or "") is None:
        return "vcgencmd pmic_read_adc gives nothing (install it, and join the group video)"
    source = Source(
        method="pmic-sum-fit", scope="board", status=ReadingStatus.ESTIMATED, interval_s=0.25
    )
    return PowerMeter(
        lambda: pmic_watts(run(("vcgencmd", "pmic_read_adc")) or ""),
        source=source,
        clock=machine.clock,
    )


def pmic_watts(output: str) -> float | None:
    """Board power in watts from ``vcgencmd pmic_read_adc``: fit over the sum of volts x amperes.

    A rail with a voltage only (the 5 V input, the clock's battery) has no part in the sum.
    """
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in output.splitlines():
        found = _PMIC_LINE.match(line)
        if found:
            target = amperes if found.group(2) == "A" else volts
            target[found.group(1)] = float(found.group(3))
    paired = amperes.keys() & volts.keys()
    if not paired:
        return None
    return PMIC_GAIN * sum(amperes[rail] * volts[rail] for rail in paired) + PMIC_OFFSET_W


# Battery ---------------------------------------------------------------------------------------


def battery(machine: Machine) -> Meter | str:
    """Discharge power of a battery: the whole device, its screen included."""
    tree = machine.tree
    folders = [
        folder
        for folder in find(tree, "sys/class/power_supply/*")
        if text(tree, f"{folder}/type") == "Battery" and text(tree, f"{folder}/scope") != "Device"
    ]
    if not folders:
        return "no battery below /sys/class/power_supply"
    folder = folders[0]
    problem = _battery_problem(tree, folder)
    if problem:
        return problem
    source = Source(
        method=f"battery:{folder.rsplit('/', 1)[1]}", scope="device", interval_s=0.5, distinct=True
    )
    return PowerMeter(
        lambda: _battery_watts(tree, folder),
        source=source,
        usable=lambda: _battery_problem(tree, folder),
        clock=machine.clock,
    )


def _battery_problem(tree: Tree, folder: str) -> str:
    name = folder.rsplit("/", 1)[1]
    status = text(tree, f"{folder}/status") or "unknown"
    if status != "Discharging":
        return f"battery {name} is {status.lower()}: unplug the device to measure"
    watts = _battery_watts(tree, folder)
    if watts is None:
        return f"battery {name} tells neither power nor current and voltage"
    low, high = BATTERY_PLAUSIBLE_W
    if not low <= watts <= high:
        return f"battery {name} claims {watts:.3g} W, outside {low}..{high} W: unit not trusted"
    return ""


def _battery_watts(tree: Tree, folder: str) -> float | None:
    micro_watts = integer(tree, f"{folder}/power_now")
    if micro_watts is not None:
        return abs(micro_watts) / 1e6
    micro_amperes = integer(tree, f"{folder}/current_now")
    micro_volts = integer(tree, f"{folder}/voltage_now")
    if micro_amperes is None or micro_volts is None:
        return None
    return abs(micro_amperes) * micro_volts / 1e12


def _sum(readers: list[Callable[[], float | None]]) -> float | None:
    total = 0.0
    for read in readers:
        value = read()
        if value is None:
            return None
        total += value
    return total
