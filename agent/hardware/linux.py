"""Facts that every Linux tells: processor, memory, cores, governor, board of a PC."""

from __future__ import annotations

import re

from agent.sensors.clocks import read_clocks
from agent.sysfs import Tree, find, text

# fmt: off
KERNEL_CHOICE = frozenset({
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq",
    "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512vbmi", "avx_vnni",
    "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16", "neon", "vfpv4", "asimd", "asimdhp",
    "asimddp", "fphp", "bf16", "i8mm", "sve", "sve2", "svei8mm", "svebf16", "sme", "sme2",
})
# fmt: on
"""Instruction sets by which runtimes choose kernels. All other flags are left out: a new Linux
kernel names more of them, and that is no change of hardware."""

ARM_CORES = {
    # implementer 0x41 (Arm Ltd), part numbers from the cores' technical reference manuals
    ("0x41", "0xc07"): "cortex-a7",
    ("0x41", "0xd03"): "cortex-a53",
    ("0x41", "0xd04"): "cortex-a35",
    ("0x41", "0xd05"): "cortex-a55",
    ("0x41", "0xd07"): "cortex-a57",
    ("0x41", "0xd08"): "cortex-a72",
    ("0x41", "0xd09"): "cortex-a73",
    ("0x41", "0xd0a"): "cortex-a75",
    ("0x41", "0xd0b"): "cortex-a76",
    ("0x41", "0xd0c"): "neoverse-n1",
    ("0x41", "0xd0d"): "cortex-a77",
    ("0x41", "0xd40"): "neoverse-v1",
    ("0x41", "0xd41"): "cortex-a78",
    ("0x41", "0xd42"): "cortex-a78ae",
    ("0x41", "0xd44"): "cortex-x1",
    ("0x41", "0xd46"): "cortex-a510",
    ("0x41", "0xd47"): "cortex-a710",
    ("0x41", "0xd48"): "cortex-x2",
    ("0x41", "0xd49"): "neoverse-n2",
    ("0x41", "0xd4d"): "cortex-a715",
    ("0x41", "0xd4e"): "cortex-x3",
    ("0x41", "0xd4f"): "neoverse-v2",
    ("0x41", "0xd80"): "cortex-a520",
    ("0x41", "0xd81"): "cortex-a720",
    ("0x41", "0xd82"): "cortex-x4",
}


def cpuinfo(tree: Tree) -> list[tuple[str, str]]:
    """Key and value of every line of ``/proc/cpuinfo``."""
    pairs = []
    for line in (text(tree, "proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            pairs.append((key.strip(), value.strip()))
    return pairs


def cpuinfo_machine(tree: Tree) -> str:
    """Machine name that the layout of ``/proc/cpuinfo`` implies; empty when it implies none."""
    values = dict(reversed(cpuinfo(tree)))
    if "CPU implementer" in values:
        return "aarch64" if values.get("CPU architecture") == "8" else "armv7l"
    if "vendor_id" in values and "flags" in values:
        return "x86_64" if "lm" in values["flags"].split() else "i686"
    return "riscv64" if values.get("isa", "").startswith("rv64") else ""


def hardware(tree: Tree, machine: str) -> dict[str, str]:
    """``machine``, ``cpu``, ``cpu_features``, ``cores`` and ``memory_class_mib``."""
    facts = {
        "machine": machine or text(tree, "proc/sys/kernel/arch") or cpuinfo_machine(tree),
        "cpu": _cpu(cpuinfo(tree)),
        "cpu_features": _features(cpuinfo(tree)),
        "cores": str(_count(text(tree, "sys/devices/system/cpu/present")) or ""),
        "memory_class_mib": str(memory_class_mib(tree) or ""),
        "accelerators": " ".join(accelerators(tree)),
    }
    return {key: value for key, value in facts.items() if value}


def memory_class_mib(tree: Tree) -> int | None:
    """Memory in MiB, rounded up to a power of two: firmware keeps some of what is soldered on."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text(tree, "proc/meminfo") or "", re.MULTILINE)
    if not found:
        return None
    mib = max(1, int(found.group(1)) // 1024)
    return 1 << (mib - 1).bit_length()


def accelerators(tree: Tree) -> list[str]:
    """Names of accelerators that show a device node, sorted."""
    found = {name for folder, pattern, name in _NODES if _any(tree, folder, pattern)}
    for folder in find(tree, "sys/class/accel/accel*"):
        uevent = text(tree, f"{folder}/device/uevent") or ""
        driver = re.search(r"^DRIVER=(\S+)", uevent, re.MULTILINE)
        found.add(driver.group(1) if driver else "accel")
    return sorted(found)


_NODES = (
    ("dev", re.compile(r"apex_\d+"), "edgetpu"),
    ("dev", re.compile(r"hailo\d+"), "hailo"),
    ("dev", re.compile(r"ethosu\d+"), "ethos-u"),
    ("dev", re.compile(r"nvhost-(as-)?gpu|nvidia\d+"), "nvidia-gpu"),
    ("dev/nvgpu", re.compile(r"igpu\d+"), "nvidia-gpu"),
    ("dev", re.compile(r"nvhost-ctrl-nvdla\d+"), "nvidia-dla"),
    ("sys/class/devfreq", re.compile(r"[0-9a-f]+\.npu"), "rknpu"),
)


def condition(tree: Tree) -> dict[str, str]:
    """``governor`` and ``cores_online``."""
    facts = {
        "governor": read_clocks(tree).governor,
        "cores_online": str(_count(text(tree, "sys/devices/system/cpu/online")) or ""),
    }
    return {key: value for key, value in facts.items() if value}


def pc_board(tree: Tree) -> str:
    """Vendor and product of a PC's board (DMI); empty elsewhere."""
    parts = [text(tree, f"sys/class/dmi/id/{n}") or "" for n in ("board_vendor", "board_name")]
    return " ".join(part for part in parts if part)


def pc_serial(tree: Tree) -> str:
    """A PC's UUID (readable by root only); empty elsewhere."""
    return text(tree, "sys/class/dmi/id/product_uuid") or ""


def _cpu(pairs: list[tuple[str, str]]) -> str:
    values = dict(reversed(pairs))
    if "model name" in values and "CPU implementer" not in values:
        family, model = values.get("cpu family", "?"), values.get("model", "?")
        return f"{values['model name']} (family {family}, model {model})"
    cores: set[str] = set()
    implementer = ""
    for key, value in pairs:
        if key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            cores.add(ARM_CORES.get((implementer, value), f"{implementer}:{value}"))
    return "+".join(sorted(cores))


def _features(pairs: list[tuple[str, str]]) -> str:
    """Instruction sets that *all* cores have: a thread may run on any of them."""
    sets = [set(value.split()) for key, value in pairs if key in ("flags", "Features")]
    common = set.intersection(*sets) if sets else set()
    return " ".join(sorted(common & KERNEL_CHOICE))


def _count(ranges: str | None) -> int:
    """Number of processors in a list such as ``0-3,6``; 0 when it is unknown."""
    total = 0
    for part in (ranges or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            total += int(last or first) - int(first) + 1
    return total


def _any(tree: Tree, folder: str, pattern: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(name) for name in tree.names(folder))
