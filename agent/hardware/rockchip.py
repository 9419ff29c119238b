"""Facts of Rockchip boards: version of the NPU's driver."""

from __future__ import annotations

import re

from agent.sysfs import Tree, text


def stack(tree: Tree) -> dict[str, str]:
    """``driver.rknpu`` as ``0.9``, from the vendor kernel's debugfs (root only)."""
    for path in ("sys/kernel/debug/rknpu/version", "sys/module/rknpu/version"):
        found = re.search(r"v?(\d+)\.(\d+)", text(tree, path) or "")
        if found:
            return {"driver.rknpu": f"{found.group(1)}.{found.group(2)}"}
    return {}
