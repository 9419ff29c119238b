"""Whether a link is metered, from what Linux leaves in files and what nmcli prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agent.hardware import read_metering
from agent.hardware.metered import default_interface
from agent.sysfs import MemoryTree

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def route(interface: str, metric: int = 100, *, flags: str = "0003", to: str = "00000000") -> str:
    mask = "00000000" if to == "00000000" else "00FFFFFF"
    return f"{interface}\t{to}\t0101A8C0\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


LAN = {"proc/net/route": HEAD + route("eth0") + route("eth0", to="0001A8C0")}
UUID = "233953b5-2f35-446f-bbc2-147ec1f1ece5"
NM = {
    **LAN,
    "sys/class/net/eth0/ifindex": "2\n",
    "run/NetworkManager/devices/2": f"[device]\nmanaged=true\nconnection-uuid={UUID}\n",
}


def profile(metered: str) -> dict[str, str]:
    text = f"[connection]\nid=office\nuuid={UUID}\ntype=ethernet\n{metered}\n[ipv4]\nmethod=auto\n"
    return {"etc/NetworkManager/system-connections/office.nmconnection": text}


def lease(vendor: bytes) -> dict[str, str]:
    text = f"ADDRESS=192.168.43.17\nVENDOR_SPECIFIC={vendor.hex()}\n"
    return {**LAN, "sys/class/net/eth0/ifindex": "7", "run/systemd/netif/leases/7": text}


SEEN: dict[str, tuple[Mapping[str, str], str, bool | None, str]] = {
    "nmcli: yes": (LAN, "GENERAL.METERED:yes\n", True, "NetworkManager says of eth0: yes"),
    "nmcli: guessed": (LAN, "GENERAL.METERED:no (guessed)\n", False, "no (guessed)"),
    "nmcli: unknown": (LAN, "GENERAL.METERED:unknown\n", None, "nothing on this machine"),
    "nmcli wins": ({**NM, **profile("metered=1")}, "GENERAL.METERED:no\n", False, "NetworkManager"),
    "a profile: yes": ({**NM, **profile("metered=1")}, "", True, "office.nmconnection"),
    "a profile: no": ({**NM, **profile("metered=2")}, "", False, "office.nmconnection"),
    "a profile: unknown": ({**NM, **profile("metered=0")}, "", None, ""),
    "a profile that says nothing": ({**NM, **profile("")}, "", None, ""),
    "a modem": (
        {"proc/net/route": HEAD + route("wwan0"),
         "sys/class/net/wwan0/uevent": "DEVTYPE=wwan\nINTERFACE=wwan0\nIFINDEX=4\n"},
        "", True, "wwan0 is a modem's line",
    ),
    "dialled": (
        {"proc/net/route": HEAD + route("ppp0", flags="0001"), "sys/class/net/ppp0/type": "512\n"},
        "", True, "ppp0 is a modem's line",
    ),
    "a phone": (lease(b"ANDROID_METERED"), "", True, "a phone shares its line"),
    "another vendor": (lease(b"MSFT 5.0"), "", None, ""),
    "nothing at all": ({}, "", None, "no default route"),
    "no route out": ({"proc/net/route": HEAD + route("eth0", to="0001A8C0")}, "", None, "default"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(SEEN))
def test_signs(tmp_path: Path, case: str) -> None:
    files, said, metered, words = SEEN[case]
    for path, text in files.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str | None:
        asked.append(command)
        return said or None

    found = read_metering(tmp_path, run)
    assert found.metered is metered
    assert words in found.why
    assert all(command[0] == "nmcli" for command in asked)


IPV6 = (
    f"{'0' * 32} 00 {'0' * 32} 00 {'fe80' + '0' * 28} 00000400 00000001 00000000 00000003   wlan0\n"
    f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"
)


@pytest.mark.parametrize(
    ("files", "interface"),
    [
        ({"proc/net/route": HEAD + route("wwan0", 700) + route("eth0", 100)}, "eth0"),
        (
            {"proc/net/route": HEAD + route("eth0", 1, flags="0002") + route("wlan0", 60)},
            "wlan0",
        ),
        ({"proc/net/route": HEAD, "proc/net/ipv6_route": IPV6}, "wlan0"),
        ({"proc/net/route": "not a table\nat all\n"}, ""),
        ({}, ""),
    ],
)
def test_the_way_out(files: Mapping[str, str], interface: str) -> None:
    tree = MemoryTree({path: text.encode() for path, text in files.items()})
    assert default_interface(tree) == interface
