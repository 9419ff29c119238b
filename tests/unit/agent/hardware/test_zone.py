"""Where a device says what time zone it is in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.hardware import read_zone


@pytest.mark.parametrize(
    ("link", "file", "found"),
    [
        ("/usr/share/zoneinfo/Europe/Berlin", "", "Europe/Berlin"),
        ("../usr/share/zoneinfo/posix/America/Argentina/Ushuaia", "",
         "America/Argentina/Ushuaia"),
        ("/usr/share/zoneinfo/Asia/Tokyo", "Europe/Berlin\n", "Asia/Tokyo"),
        ("", "Europe/Berlin\n", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Etc/UTC", "", ""),
        ("", "Etc/UTC\n", ""),
        ("", "UTC", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_linux(tmp_path: Path, link: str, file: str, found: str) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    if link:
        (etc / "localtime").symlink_to(link)
    if file:
        (etc / "timezone").write_text(file)
    assert read_zone(tmp_path) == found


def test_android_is_asked_for_its_property(tmp_path: Path) -> None:
    (tmp_path / "system/bin").mkdir(parents=True)
    (tmp_path / "system/bin/getprop").touch()
    asked = []

    def run(command: Sequence[str]) -> str:
        asked.append(tuple(command))
        return "Europe/Lisbon\n"

    assert [read_zone(tmp_path, run), read_zone(tmp_path, run)] == ["Europe/Lisbon"] * 2
    assert asked == [("/system/bin/getprop", "persist.sys.timezone")]
