"""Facts of Android, as its properties tell them. Elsewhere there are none."""

from __future__ import annotations

from agent.sysfs import Run, Tree

_HARDWARE = {
    "android_soc_model": "ro.soc.model",
    "android_soc_manufacturer": "ro.soc.manufacturer",
    "model": "ro.product.model",
}


def present(tree: Tree) -> bool:
    """Whether this is Android: only there is a tool of its own to ask."""
    # An application may not read build.prop, and not everywhere list system/bin.
    return "getprop" in tree.names("system/bin") or tree.problem("system/build.prop") != "missing"


def hardware(tree: Tree, run: Run) -> dict[str, str]:
    """``platform``, ``android_soc_model`` (``SM8650``), its manufacturer, and the model."""
    if not present(tree):
        return {}
    facts = {key: _property(run, name) for key, name in _HARDWARE.items()}
    return {"platform": "android"} | {key: value for key, value in facts.items() if value}


def stack(tree: Tree, run: Run) -> dict[str, str]:
    """``driver.android``: the API level, which decides which delegates can be loaded."""
    level = _property(run, "ro.build.version.sdk") if present(tree) else ""
    return {"driver.android": level} if level else {}


def _property(run: Run, name: str) -> str:
    return (run(("/system/bin/getprop", name)) or "").strip()
