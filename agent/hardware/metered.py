"""Whether the link that leads out is metered, by what Linux really says, without D-Bus libraries.

NetworkManager keeps its own verdict in memory, so ``nmcli`` is asked first. Without it these
files tell: the profile of the connection in use (its uuid is in ``/run/NetworkManager/devices``),
the kernel's word that an interface is a modem, and the lease of systemd-networkd, in which a phone
that shares its line says ``ANDROID_METERED`` (DHCP option 43). No sign at all is no knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.domain.allowance import Metering
from agent.sysfs import DiskTree, Run, Tree, find, run_command, text

_UP, _GATEWAY = 0x1, 0x2  # of routes; linux/route.h
_PROFILES: Final = (
    "run/NetworkManager/system-connections/*",
    "etc/NetworkManager/system-connections/*",
    "usr/lib/NetworkManager/system-connections/*",
)
_SAID: Final = {"1": True, "2": False, "yes": True, "no": False}
"""``connection.metered`` of a profile; 0 is unknown."""
_PPP: Final = "512"  # ARPHRD_PPP of linux/if_arp.h: a dialled line
_PHONE: Final = b"ANDROID_METERED".hex()


def read_metering(root: Path | str = "/", run: Run = run_command) -> Metering:
    """What is known of the interface of the default route."""
    tree = DiskTree(root)
    interface = default_interface(tree)
    if not interface:
        return Metering(why="there is no default route")
    for found in _looks(tree, interface, run):
        if found is not None:
            return found
    return Metering(why=f"nothing on this machine says it of {interface}")


def default_interface(tree: Tree) -> str:
    """Of the default route with the lowest metric, IPv4 before IPv6; empty: there is none."""
    routes: list[tuple[int, str]] = []
    for line in (text(tree, "proc/net/route") or "").splitlines()[1:]:
        parts = line.split()
        leads_out = len(parts) >= 8 and parts[1] == parts[7] == "00000000"
        if leads_out and _number(parts[3], 16) & _UP:
            routes.append((_number(parts[6], 10), parts[0]))
    routes = routes or _routes_of_ipv6(tree)
    return min(routes)[1] if routes else ""


def _routes_of_ipv6(tree: Tree) -> list[tuple[int, str]]:
    routes = []
    for line in (text(tree, "proc/net/ipv6_route") or "").splitlines():
        parts = line.split()
        leads_out = len(parts) == 10 and parts[0] == "0" * 32 and parts[1] == "00"
        if leads_out and _number(parts[8], 16) & _GATEWAY and parts[9] != "lo":
            routes.append((_number(parts[5], 16), parts[9]))
    return routes


def _looks(tree: Tree, interface: str, run: Run) -> Iterator[Metering | None]:
    yield _nmcli(interface, run)
    yield _profile(tree, interface)
    yield _modem(tree, interface)
    yield _lease(tree, interface)


def _nmcli(interface: str, run: Run) -> Metering | None:
    """``GENERAL.METERED:yes (guessed)``, ``no``, ``unknown``."""
    said = run(("nmcli", "-t", "-f", "GENERAL.METERED", "dev", "show", interface)) or ""
    for line in said.splitlines():
        key, _, value = line.partition(":")
        metered = _SAID.get(value.split(" ")[0])
        if key == "GENERAL.METERED" and metered is not None:
            return Metering(metered=metered, why=f"NetworkManager says of {interface}: {value}")
    return None


def _profile(tree: Tree, interface: str) -> Metering | None:
    index = text(tree, f"sys/class/net/{interface}/ifindex")
    uuid = _value(tree, f"run/NetworkManager/devices/{index}", "device", "connection-uuid")
    if not index or not uuid:
        return None
    for path in (path for pattern in _PROFILES for path in find(tree, pattern)):
        if _value(tree, path, "connection", "uuid") == uuid:
            metered = _SAID.get(_value(tree, path, "connection", "metered"))
            if metered is not None:
                name = path.rpartition("/")[2]
                return Metering(
                    metered=metered, why=f"the connection profile {name} of {interface}"
                )
    return None


def _modem(tree: Tree, interface: str) -> Metering | None:
    lines = (text(tree, f"sys/class/net/{interface}/uevent") or "").splitlines()
    if "DEVTYPE=wwan" in lines or text(tree, f"sys/class/net/{interface}/type") == _PPP:
        return Metering(metered=True, why=f"guessed: {interface} is a modem's line")
    return None


def _lease(tree: Tree, interface: str) -> Metering | None:
    index = text(tree, f"sys/class/net/{interface}/ifindex")
    for line in (text(tree, f"run/systemd/netif/leases/{index}") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "VENDOR_SPECIFIC" and _PHONE in value.lower():
            return Metering(metered=True, why=f"guessed: a phone shares its line with {interface}")
    return None


def _value(tree: Tree, path: str, section: str, key: str) -> str:
    """One value of a key file; `configparser` would choke on keys that NetworkManager allows."""
    here = ""
    for line in map(str.strip, (text(tree, path) or "").splitlines()):
        if line.startswith("["):
            here = line.strip("[]")
        elif here == section and line.partition("=")[0].strip() == key:
            return line.partition("=")[2].strip()
    return ""


def _number(digits: str, base: int) -> int:
    try:
        return int(digits, base)
    except ValueError:
        return 0
