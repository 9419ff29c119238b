"""What the ladder goes by, from the files of real boards and from made ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.domain.ladder import Readings
from agent.hardware import boards
from agent.sensors import Strain, with_throttle_point

ZONE = "sys/class/thermal/thermal_zone0"
MEMINFO = "MemTotal:        8000000 kB\nMemFree: 100 kB\nMemAvailable:     600000 kB\n"
PSI = "some avg10={} avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0 avg300=0 total=0\n"


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def board(root: Path, folder: Path, name: str) -> Path:
    archive = boards.parse((root / f"tests/fixtures/boards/{name}.tree").read_text(), name)
    return put(folder, {path: data.decode() for path, data in archive.files.items()})


def test_a_board_without_sensors_says_nothing(tmp_path: Path) -> None:
    assert Strain().read(tmp_path) == Readings()


@pytest.mark.parametrize(
    ("name", "temperature_c", "throttled"),
    [("raspberry-pi-5-live", 61.7, None), ("x86-laptop", 61.0, False), ("phone", 43.1, True)],
)
def test_boards_as_they_were_found(
    name: str, temperature_c: float, throttled: bool | None, root: Path, tmp_path: Path
) -> None:
    seen = Strain().read(board(root, tmp_path, name))
    assert (seen.temperature_c, seen.throttled) == (temperature_c, throttled)
    assert seen.throttle_c is None


def test_the_throttle_point_is_the_lowest_passive_trip_of_the_zone(tmp_path: Path) -> None:
    files = {f"{ZONE}/type": "cpu-thermal\n", f"{ZONE}/temp": "71000\n"}
    trips = [("active", 50), ("passive", 85), ("passive", 80), ("hot", 90), ("critical", 110)]
    for number, (kind, degrees) in enumerate(trips):
        files[f"{ZONE}/trip_point_{number}_type"] = f"{kind}\n"
        files[f"{ZONE}/trip_point_{number}_temp"] = f"{degrees * 1000}\n"
    put(tmp_path, files)
    assert Strain().read(tmp_path).throttle_c == 80.0
    assert Strain().read(tmp_path, throttle_c=60.0).throttle_c == 60.0
    for number in (1, 2):
        (tmp_path / f"{ZONE}/trip_point_{number}_temp").unlink()
    assert Strain().read(tmp_path).throttle_c == 90.0


def test_the_order_says_where_the_board_does_not() -> None:
    assert with_throttle_point(Readings(), 80.0).throttle_c == 80.0
    assert with_throttle_point(Readings(throttle_c=70.0), 80.0).throttle_c == 70.0
    assert with_throttle_point(Readings(), None).throttle_c is None


def test_only_a_rise_of_the_throttle_counters_tells(root: Path, tmp_path: Path) -> None:
    place, strain = board(root, tmp_path, "x86-laptop"), Strain()
    assert strain.read(place).throttled is False
    (place / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count").write_text("13\n")
    assert strain.read(place).throttled is True
    assert strain.read(place).throttled is False


@pytest.mark.parametrize(
    ("flags", "expected"), [("0", False), ("1", False), ("50005", True), ("e0000", False)]
)
def test_the_firmwares_flags_of_now(flags: str, expected: bool, tmp_path: Path) -> None:
    put(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": f"{flags}\n"})
    assert Strain().read(tmp_path).throttled is expected


@pytest.mark.parametrize(
    ("capacity", "status", "percent", "discharging"),
    [("17", "Discharging", 17.0, True), ("90", "Charging", 90.0, False),
     ("90", "Unknown", 90.0, None), ("255", "Full", None, False), ("", "", None, None)],
)  # fmt: skip
def test_the_devices_own_battery(
    capacity: str, status: str, percent: float | None, discharging: bool | None, tmp_path: Path
) -> None:
    base = "sys/class/power_supply"
    put(tmp_path, {
        f"{base}/hid-mouse/type": "Battery\n", f"{base}/hid-mouse/scope": "Device\n",
        f"{base}/hid-mouse/capacity": "3\n", f"{base}/AC/type": "Mains\n",
        f"{base}/BAT0/type": "Battery\n", f"{base}/BAT0/capacity": f"{capacity}\n",
        f"{base}/BAT0/status": f"{status}\n",
    })  # fmt: skip
    seen = Strain().read(tmp_path)
    assert (seen.battery_percent, seen.discharging) == (percent, discharging)


def test_memory(tmp_path: Path) -> None:
    put(tmp_path, {"proc/meminfo": MEMINFO, "proc/pressure/memory": PSI.format("12.50")})
    seen = Strain().read(tmp_path)
    assert (seen.memory_available_share, seen.memory_stall_percent) == (0.075, 12.5)
