"""Pressure, clocks, heat and memory, from boards and from nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sensors import Conditions, process_memory, snapshot, throttle_reasons
from agent.sensors.clocks import read_clocks
from agent.sensors.thermal import PiThrottled, read_pi_throttled, read_thermal
from agent.sysfs import DiskTree


def test_a_laptop(unpack) -> None:
    assert snapshot(unpack("x86-laptop")) == Conditions(
        psi_avg10=3.27, psi_total_us=84_120_331, freq_khz=4_100_112, freq_max_khz=4_700_000,
        temperature_c=61.0, cooling_active=False, throttle_count=45,
    )  # fmt: skip


def test_a_phone_under_heat(unpack) -> None:
    now = snapshot(unpack("phone"))
    assert (now.temperature_c, now.cooling_active) == (43.1, True)
    assert now.psi_avg10 is None
    assert now.throttle_count is None


def test_a_fan_at_work_is_no_throttling(unpack) -> None:
    thermal = read_thermal(DiskTree(unpack("raspberry-pi-5-live")))
    assert (thermal.zone, thermal.temperature_c, thermal.cooling_active) == (
        "cpu-thermal", 61.7, None,
    )  # fmt: skip


def test_pi_flags(unpack, vcgencmd: Callable[[Path], Callable[..., str | None]]) -> None:
    root = unpack("raspberry-pi-5-live")
    throttled = read_pi_throttled(vcgencmd(root))
    assert throttled is not None
    assert throttled.now == ()
    assert throttled.since_boot == ("under-voltage", "throttled")
    assert PiThrottled(flags=0x8000A).now == ("frequency capped", "soft temperature limit")
    assert snapshot(root, vcgencmd(root)).throttle_flags == 0x50000
    assert read_pi_throttled(lambda _: None) is None


def test_nothing_is_null_and_never_zero(tmp_path: Path) -> None:
    now = snapshot(tmp_path)
    assert now == Conditions()
    assert now.numbers() == {}


def test_memory_that_stalls_or_is_mended_is_counted_where_the_kernel_does(tmp_path: Path) -> None:
    stalled = tmp_path / "proc/pressure/memory"
    stalled.parent.mkdir(parents=True)
    stalled.write_text("some avg10=12.50 avg60=1.00 avg300=0.00 total=9\n")
    for controller, count in (("mc0", 3), ("mc1", 4)):
        folder = tmp_path / "sys/devices/system/edac/mc" / controller
        folder.mkdir(parents=True)
        (folder / "ce_count").write_text(f"{count}\n")
    now = snapshot(tmp_path)
    assert (now.memory_psi_avg10, now.ecc_corrected) == (12.5, 7)


def test_numbers_leave_out_what_is_missing() -> None:
    assert Conditions(psi_avg10=0.0, cooling_active=True).numbers() == {
        "psi_avg10": 0.0,
        "cooling_active": 1.0,
    }


@pytest.mark.parametrize("content", ["", "garbage", "some", "some avg10=x total=y", "full avg10=1"])
def test_odd_pressure_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/pressure/cpu").write_text(content)
    assert snapshot(tmp_path) == Conditions()


def test_a_lowered_cap_is_seen(unpack) -> None:
    root = unpack("raspberry-pi-5-live")
    (root / "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq").write_text("1500000")
    clocks = read_clocks(DiskTree(root))
    assert (clocks.allowed_khz, clocks.maximum_khz) == (1_500_000, 2_400_000)
    assert clocks.governor == "ondemand"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (Conditions(), Conditions(), ""),
        (Conditions(throttle_count=3), Conditions(throttle_count=3), ""),
        (Conditions(throttle_count=3), Conditions(throttle_count=5), "2 thermal throttle events"),
        (Conditions(), Conditions(throttle_count=5), ""),
        (Conditions(cooling_active=False), Conditions(cooling_active=True), "cooling device"),
        (Conditions(throttle_flags=0x50000), Conditions(throttle_flags=0x50000), ""),
        (Conditions(throttle_flags=0x0), Conditions(throttle_flags=0x20000), "0x20000"),
        (Conditions(throttle_flags=0x0), Conditions(throttle_flags=0x4), "0x4"),
    ],
)
def test_throttling_between_two_looks(before: Conditions, after: Conditions, words: str) -> None:
    reasons = throttle_reasons(before, after)
    assert bool(reasons) == bool(words)
    assert words in " ".join(reasons)


def test_own_memory_is_read() -> None:
    memory = process_memory(os.getpid())
    assert memory.anonymous_bytes is not None
    assert memory.pss_bytes is not None
    assert memory.anonymous_bytes > 1 << 20


def test_memory_of_nobody_says_why(tmp_path: Path) -> None:
    memory = process_memory(1, tmp_path)
    assert (memory.anonymous_bytes, memory.pss_bytes) == (None, None)
    assert memory.reason == "/proc/1/smaps_rollup: missing"
