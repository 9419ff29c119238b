"""Energy meters on recorded-looking boards, standing and moving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sensors import Meter, Unavailable, find_meter
from agent.sensors.rails import pmic_watts
from fitment.core.measurement import ReadingStatus

RANGE_UJ = 262_143_328_850


def silent(_: object) -> None:
    """No vendor tools here."""


def meter_of(found: Meter | Unavailable) -> Meter:
    assert not isinstance(found, Unavailable), found.reason
    return found


def run_window(meter: Meter, clock, steps: int, step_s: float) -> None:
    meter.start()
    for _ in range(steps):
        clock.pass_s(step_s)
        meter.sample()


def test_rapl_counts_packages_once_and_survives_a_wrap(unpack, clock) -> None:
    root = unpack("x86-laptop")
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    meter = meter_of(find_meter(root, silent, clock=clock))
    assert (meter.method, meter.scope) == ("rapl:package-0", "package")
    meter.start()
    clock.pass_s(1.0)
    counter.write_text("262143328000")  # 0.328 J later, just before the end
    meter.sample()
    clock.pass_s(1.0)
    counter.write_text("9999150")  # and 10 J later, past it
    window = meter.stop()
    assert window.status is ReadingStatus.MEASURED
    assert window.joules == pytest.approx(0.328 + (9_999_150 + RANGE_UJ - 262_143_328_000) / 1e6)
    assert window.joules == pytest.approx(10.328)
    assert window.mean_w == pytest.approx(5.164)


def test_rapl_a_failed_reading_voids_the_window_and_is_no_wrap(unpack, clock) -> None:
    root = unpack("x86-laptop")
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    meter = meter_of(find_meter(root, silent, clock=clock))
    meter.start()
    counter.write_text("")
    clock.pass_s(1.0)
    meter.sample()
    counter.write_text("262143100000")
    window = meter.stop()
    assert (window.joules, window.status) == (None, ReadingStatus.UNAVAILABLE)
    assert "a reading failed" in window.reason


def test_rapl_without_a_range_refuses_to_guess(unpack, clock) -> None:
    root = unpack("x86-laptop")
    (root / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    meter = meter_of(find_meter(root, silent, clock=clock))
    meter.start()
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("5")
    clock.pass_s(1.0)
    assert "range is not known" in meter.stop().reason


def test_a_counter_that_stands_still_is_not_zero_joules(unpack, clock) -> None:
    meter = meter_of(find_meter(unpack("x86-laptop"), silent, clock=clock))
    meter.start()
    clock.pass_s(1.0)
    window = meter.stop()
    assert window.joules is None
    assert "did not move" in window.reason


def test_jetson_total_rail_is_integrated(unpack, clock) -> None:
    root = unpack("jetson-orin-nano-power")
    meter = meter_of(find_meter(root, silent, clock=clock))
    assert (meter.method, meter.scope) == ("ina3221:VDD_IN", "board")
    assert meter.interval_s == pytest.approx(0.036)
    run_window(meter, clock, 50, 0.04)
    window = meter.stop()
    assert window.status is ReadingStatus.MEASURED
    assert window.joules == pytest.approx(5.064 * 50 * 0.04)
    assert window.samples >= 20


def test_polling_faster_than_the_sensor_adds_no_samples(unpack, clock) -> None:
    meter = meter_of(find_meter(unpack("jetson-orin-nano-power"), silent, clock=clock))
    run_window(meter, clock, 200, 0.001)
    window = meter.stop()
    assert window.joules is None
    assert "20 are needed" in window.reason


def test_power_that_moves_is_a_trapezoid(unpack, clock) -> None:
    root = unpack("jetson-orin-nano-power")
    current = next(root.glob("sys/devices/**/curr1_input"))
    meter = meter_of(find_meter(root, silent, clock=clock))
    meter.start()
    for step in range(1, 41):
        clock.pass_s(0.1)
        current.write_text(str(1000 + 25 * step))  # rises to 2 A within 4 s
        meter.sample()
    assert meter.stop().joules == pytest.approx(5.064 * 1.5 * 4.0)


def test_jetpack_4_layout(unpack, clock) -> None:
    meter = meter_of(find_meter(unpack("jetson-nano-jp4"), silent, clock=clock))
    assert (meter.method, meter.scope) == ("ina3221:POM_5V_IN", "board")
    run_window(meter, clock, 30, 0.1)
    assert meter.stop().mean_w == pytest.approx(2.524)


def test_agx_rails_are_summed_because_there_is_no_total(unpack, clock) -> None:
    meter = meter_of(find_meter(unpack("jetson-agx-xavier"), silent, clock=clock))
    assert meter.method == "ina3221:GPU+CPU+SOC+CV+VDDRQ+SYS5V"
    run_window(meter, clock, 30, 0.1)
    assert meter.stop().mean_w == pytest.approx(6 * 1.9)


def test_the_pi_estimates_and_says_so(
    unpack, clock, vcgencmd: Callable[[Path], Callable[..., str | None]]
) -> None:
    root = unpack("raspberry-pi-5-live")
    meter = meter_of(find_meter(root, vcgencmd(root), clock=clock))
    assert (meter.method, meter.status) == ("pmic-sum-fit", ReadingStatus.ESTIMATED)
    run_window(meter, clock, 30, 0.3)
    window = meter.stop()
    assert window.status is ReadingStatus.ESTIMATED
    assert window.mean_w is not None
    assert 2.5 < window.mean_w < 4.0


def test_pmic_pairs_volts_with_amperes() -> None:
    output = "A_A current(0)=2.0A\nA_V volt(1)=0.5V\nEXT5V_V volt(24)=5.1V\nnoise"
    assert pmic_watts(output) == pytest.approx(1.1451 * 1.0 + 0.5879)
    assert pmic_watts("EXT5V_V volt(24)=5.1V") is None
    assert pmic_watts("") is None


def test_battery_counts_only_new_readings(unpack, clock) -> None:
    root = unpack("phone")
    current = root / "sys/class/power_supply/battery/current_now"
    meter = meter_of(find_meter(root, silent, clock=clock))
    assert (meter.method, meter.scope) == ("battery:battery", "device")
    run_window(meter, clock, 60, 0.5)
    assert "1 readings" in meter.stop().reason
    meter.start()
    for step in range(60):
        clock.pass_s(0.5)
        current.write_text(str(-500_000 - 1000 * (step % 7)))
        meter.sample()
    window = meter.stop()
    assert window.mean_w == pytest.approx(0.503 * 3.98, rel=0.01)


def test_plugging_in_voids_the_window(unpack, clock) -> None:
    root = unpack("phone")
    meter = meter_of(find_meter(root, silent, clock=clock))
    meter.start()
    (root / "sys/class/power_supply/battery/status").write_text("Charging")
    clock.pass_s(5.0)
    assert "unplug" in meter.stop().reason


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("status", "Full", "is full: unplug"),
        ("current_now", "-512", "unit not trusted"),  # milliamperes,
        ("current_now", "512", "unit not trusted"),  # of either sign,
        ("current_now", "-3000", "unit not trusted"),  # however many
        ("current_now", "-9000000", "unit not trusted"),
        ("voltage_now", "", "neither power nor"),
    ],
)
def test_a_battery_that_cannot_be_believed(unpack, file: str, content: str, reason: str) -> None:
    root = unpack("phone")
    (root / "sys/class/power_supply/battery" / file).write_text(content)
    found = find_meter(root, silent)
    assert isinstance(found, Unavailable)
    assert reason in found.reason


@pytest.mark.parametrize("sign", ["", "-"])
def test_vendors_differ_in_the_sign_of_a_discharge(unpack, sign: str) -> None:
    root = unpack("phone")
    battery = root / "sys/class/power_supply/battery"
    (battery / "current_now").write_text(f"{sign}512000")
    (battery / "voltage_now").write_text("4000000")
    meter = meter_of(find_meter(root, silent))
    assert meter.method == "battery:battery"


def test_a_generic_power_monitor_is_found_by_reading(tmp_path: Path, clock) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon7"
    chip.mkdir(parents=True)
    (chip / "name").write_text("ina226\n")
    (chip / "power1_input").write_text("4200000\n")
    meter = meter_of(find_meter(tmp_path, silent, clock=clock))
    assert (meter.method, meter.scope) == ("hwmon:ina226/power1", "rail")
    run_window(meter, clock, 30, 0.1)
    assert meter.stop().mean_w == pytest.approx(4.2)


def test_no_meter_names_every_place_that_was_tried(tmp_path: Path) -> None:
    found = find_meter(tmp_path, silent)
    assert isinstance(found, Unavailable)
    assert [name for name, _ in found.tried] == ["ina3221", "rapl", "hwmon", "pmic", "battery"]
    assert all(reason and reason in found.reason for _, reason in found.tried)
