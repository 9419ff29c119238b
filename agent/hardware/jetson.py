"""Facts of NVIDIA Jetson boards: release of Linux for Tegra, power mode."""

from __future__ import annotations

import re

from agent.sysfs import Tree, text


def stack(tree: Tree) -> dict[str, str]:
    """``driver.l4t`` as ``36.4``: the third number is a patch level and left out."""
    release = text(tree, "etc/nv_tegra_release") or ""
    found = re.search(r"# R(\d+) \(release\), REVISION: (\d+)", release)
    return {"driver.l4t": f"{found.group(1)}.{found.group(2)}"} if found else {}


def condition(tree: Tree) -> dict[str, str]:
    """``power_mode``: the mode that nvpmodel last set, by name where its table has one."""
    status = re.search(r"pmode:0*(\d+)", text(tree, "var/lib/nvpmodel/status") or "")
    if not status:
        return {}
    mode = status.group(1)
    table = text(tree, "etc/nvpmodel.conf") or ""
    named = re.search(rf"<\s*POWER_MODEL\s+ID={mode}\s+NAME=(\S+?)\s*>", table)
    return {"power_mode": named.group(1) if named else mode}
