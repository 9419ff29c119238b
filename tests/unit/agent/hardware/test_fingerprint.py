"""The four facets, from real roots, boards and this very machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.hardware import HardwareSettings, boards, emulation, read_fingerprint, runtimes
from agent.hardware.runtimes import installed
from agent.jobs import RuntimeOptions
from agent.sysfs import MemoryTree
from fitment.core.fingerprint import Fingerprint

PLAIN = HardwareSettings()


def read(root: Path | str, emulates: str = "", **options: object) -> Fingerprint:
    return read_fingerprint(
        root=root, settings=HardwareSettings(emulates=emulates), options=RuntimeOptions(**options)
    )  # type: ignore[arg-type]


def properties(command: Sequence[str]) -> str | None:
    """Answers like getprop."""
    known = {
        "ro.soc.model": "SM8650\n", "ro.soc.manufacturer": "QTI\n",
        "ro.product.model": "SM-S921B\n", "ro.build.version.sdk": "35\n",
    }  # fmt: skip
    return known.get(command[-1]) if command[0].endswith("getprop") else None


@pytest.mark.parametrize(
    ("board", "facts"),
    [
        ("raspberry-pi-5", {
            "machine": "aarch64", "model": "Raspberry Pi 5 Model B", "cpu": "cortex-a76",
            "cpu_features": "asimd asimddp asimdhp fphp", "cores": "4",
            "compatible": "raspberrypi,5-model-b brcm,bcm2712", "memory_class_mib": "8192",
        }),
        ("imx93", {"cpu": "cortex-a55", "memory_class_mib": "2048", "accelerators": "ethos-u"}),
        ("jetson-orin-nano", {"cpu": "cortex-a78ae", "accelerators": "nvidia-gpu", "cores": "6"}),
        ("rk3588", {
            "cpu": "cortex-a55+cortex-a76", "accelerators": "rknpu", "memory_class_mib": "16384",
        }),
    ],
)  # fmt: skip
def test_a_shipped_board_reads_as_itself(board: str, facts: dict[str, str], tmp_path: Path) -> None:
    fingerprint = read(boards.unpack(board, tmp_path))
    assert facts.items() <= fingerprint.hardware.facts.items()
    assert not fingerprint.emulated


@pytest.mark.parametrize("board", boards.names())
def test_emulation_borrows_chassis_and_hardware_only(board: str, tmp_path: Path) -> None:
    real, emulated = read("/"), read("/", board)
    native = read(boards.unpack(board, tmp_path))
    assert emulated.emulated
    assert emulated.chassis == native.chassis
    assert (emulated.stack, emulated.condition) == (real.stack, real.condition)
    assert dict(emulated.hardware.facts) == dict(native.hardware.facts) | {
        "emulated_on": os.uname().machine
    }
    # Another hash, so that emulated timings never enter the real board's kernel table.
    assert emulated.hardware.hash != native.hardware.hash


def test_an_unknown_board_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no board 'pdp-11' .*raspberry-pi-5"):
        read("/", "pdp-11")


def test_this_machine() -> None:
    facts = read("/").hardware.facts
    assert facts["machine"] == os.uname().machine
    assert int(facts["cores"]) >= 1
    memory = int(facts["memory_class_mib"])
    assert memory & (memory - 1) == 0


def test_a_laptop_and_its_hidden_serial(unpack) -> None:
    root = unpack("x86-laptop")
    (root / "sys/class/dmi/id/product_uuid").write_text("4c4c4544-0051-secret\n")
    fingerprint = read(root)
    assert fingerprint.hardware.facts["cpu"].startswith("11th Gen Intel(R) Core(TM) i7-1165G7")
    assert "avx512_vnni" in fingerprint.hardware.facts["cpu_features"].split()
    assert "md_clear" not in fingerprint.hardware.facts["cpu_features"]
    assert fingerprint.condition.facts == {"governor": "powersave", "cores_online": "8"}
    assert fingerprint.chassis.facts["board"] == "LENOVO 20XW0026GE"
    assert "secret" not in str(fingerprint)


def test_hashes_are_apart(unpack) -> None:
    root = unpack("x86-laptop")
    before = read(root)
    (root / "sys/devices/system/cpu/online").write_text("0-3")
    after = read(root)
    assert after.condition.hash != before.condition.hash
    assert (after.hardware, after.chassis) == (before.hardware, before.chassis)
    (root / "proc/meminfo").write_text("MemTotal:       32552384 kB\n")
    grown = read(root)
    assert grown.hardware.hash != after.hardware.hash
    assert (grown.stack, grown.condition) == (after.stack, after.condition)


def test_a_kernel_update_changes_nothing(unpack) -> None:
    root = unpack("x86-laptop")
    before = read(root)
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace("md_clear", "md_clear brand_new_mitigation"))
    assert read(root) == before


def test_cores_offline_are_still_hardware(tmp_path: Path) -> None:
    root = boards.unpack("rk3588", tmp_path)
    before = read(root)
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text("\n\n".join(cpuinfo.read_text().split("\n\n")[:4]))  # the big ones sleep
    (root / "sys/devices/system/cpu/online").write_text("0-3")
    after = read(root)
    assert after.hardware == before.hardware
    assert after.condition != before.condition


def test_a_board_of_another_revision_stays_in_its_cohort(tmp_path: Path) -> None:
    root = boards.unpack("raspberry-pi-5", tmp_path)
    before = read(root)
    (root / "proc/device-tree/model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.1\0")
    after = read(root)
    assert after.hardware == before.hardware
    assert after.chassis != before.chassis


def test_jetson_release_and_power_mode(unpack) -> None:
    root = unpack("jetson-orin-nano-power")
    fingerprint = read(root)
    assert fingerprint.stack.facts["driver.l4t"] == "36.4"
    assert fingerprint.condition.facts["power_mode"] == "25W"
    (root / "etc/nvpmodel.conf").unlink()
    assert read(root).condition.facts["power_mode"] == "1"


def test_npu_driver_version_is_stack(tmp_path: Path) -> None:
    root = boards.unpack("rk3588", tmp_path)
    before = read(root)
    assert before.stack.facts["driver.rknpu"] == "0.9"
    (root / "sys/kernel/debug/rknpu/version").write_text("RKNPU driver: v1.0.0\n")
    after = read(root)
    assert after.stack.hash != before.stack.hash
    assert after.hardware == before.hardware


def test_mainline_npu_driver_is_another_accelerator(tmp_path: Path) -> None:
    device = tmp_path / "sys/class/accel/accel0/device"
    device.mkdir(parents=True)
    (device / "uevent").write_text("DRIVER=rocket\nOF_NAME=npu\n")
    assert read(tmp_path).hardware.facts["accelerators"] == "rocket"


def test_android_by_its_properties(unpack) -> None:
    root = unpack("phone")
    fingerprint = read_fingerprint(
        root=root, settings=PLAIN, options=RuntimeOptions(), run=properties
    )
    expected = {
        "platform": "android", "android_soc_model": "SM8650", "model": "SM-S921B",
        "android_soc_manufacturer": "QTI",
    }  # fmt: skip
    assert expected.items() <= fingerprint.hardware.facts.items()
    assert fingerprint.stack.facts["driver.android"] == "35"


def test_an_empty_root_is_a_device_that_knows_nothing(tmp_path: Path) -> None:
    fingerprint = read_fingerprint(
        root=tmp_path, settings=PLAIN, options=RuntimeOptions(), enabled=()
    )
    facets = (fingerprint.chassis, fingerprint.hardware, fingerprint.stack, fingerprint.condition)
    assert [dict(facet.facts) for facet in facets] == [{}, {}, {}, {}]


def test_a_marked_root_is_emulated(tmp_path: Path) -> None:
    root = boards.unpack("raspberry-pi-5", tmp_path)
    (root / "etc").mkdir()
    (root / "etc/fitment-emulated").write_text("")
    marked = read(root)
    assert marked.emulated
    assert marked.translated_on == "unknown"
    (root / "etc/fitment-emulated").unlink()
    assert read(root).hardware.hash != marked.hardware.hash


def test_a_program_of_another_machine_is_an_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is read is Linux's word for the program that runs; here it is a file like it.
    monkeypatch.setattr(emulation, "_PROGRAM", tmp_path / "exe")
    tree = MemoryTree({"proc/cpuinfo": b"CPU implementer : 0x41\nCPU architecture: 8\n"})
    assert emulation.translated_on(tree, "aarch64") == ""  # nothing can be read
    (tmp_path / "exe").write_bytes(Path(sys.executable).read_bytes()[:20])
    own = os.uname().machine
    foreign = "riscv64" if emulation.family(own) != "riscv64" else "s390x"
    assert emulation.translated_on(tree, foreign) == own
    assert emulation.translated_on(MemoryTree({}), own) == ""
    assert not read("/").emulated


@pytest.mark.parametrize(
    ("header", "machine"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00", "aarch64"),
        (b"\x7fELF\x01\x02\x01" + bytes(9) + b"\x00\x02\x00\x28", "armv7l"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e", ""),  # cut off
        (b"#!/bin/sh\nexec python", ""),
    ],
)
def test_the_machine_of_a_program(header: bytes, machine: str) -> None:
    assert emulation.elf_machine(header) == machine


def test_another_machines_cpuinfo_is_an_emulators() -> None:
    shown = {"proc/cpuinfo": b"vendor_id : GenuineIntel\nflags : fpu lm avx2\n"}
    assert emulation.translated_on(MemoryTree(shown), "riscv64") in ("x86_64", os.uname().machine)


PACKAGES = {"onnxruntime": "1.32.0", "ai_edge_litert": "2.3.0"}


def test_stack_leaves_patch_levels_out() -> None:
    one = runtimes.stack(RuntimeOptions(), packages=PACKAGES)
    other = runtimes.stack(RuntimeOptions(), packages=PACKAGES | {"onnxruntime": "1.32.4rc1"})
    assert one == other
    assert one == {
        "runtime.onnx": "1.32", "runtime.onnx.package": "onnxruntime", "runtime.onnx.threads": "1",
        "runtime.litert": "2.3", "runtime.litert.package": "ai-edge-litert",
        "runtime.litert.threads": "1",
    }  # fmt: skip


def test_settings_that_change_kernels_are_stack() -> None:
    options = RuntimeOptions(threads=2, disabled_optimizers=("NchwcTransformer", "ConvAddFusion"))
    facts = runtimes.stack(options, packages=PACKAGES, enabled=("onnx",))
    assert facts == {
        "runtime.onnx": "1.32", "runtime.onnx.package": "onnxruntime", "runtime.onnx.threads": "2",
        "runtime.onnx.disabled_optimizers": "ConvAddFusion,NchwcTransformer",
    }  # fmt: skip


def test_the_old_tflite_package_is_told_apart() -> None:
    facts = runtimes.stack(RuntimeOptions(), packages={"tflite_runtime": "2.14.0"})
    assert (facts["runtime.litert"], facts["runtime.litert.package"]) == ("2.14", "tflite-runtime")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("onnxruntime-1.32.0.dist-info", {"onnxruntime": "1.32.0"}),
        ("onnxruntime_gpu-1.22.1.dist-info", {"onnxruntime_gpu": "1.22.1"}),
        ("ai_edge_litert-2.3.0.dist-info", {"ai_edge_litert": "2.3.0"}),
        ("tflite_runtime-2.14.0-py3.11.egg-info", {"tflite_runtime": "2.14.0"}),
        ("onnxruntime_extensions-0.14.0.dist-info", {}),
        ("numpy-2.4.6.dist-info", {}),
        ("onnxruntime", {}),
    ],
)
def test_packages_are_found_by_their_folders(
    folder: str, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir()
    assert installed([str(tmp_path), str(tmp_path / "missing")]) == expected


def test_the_first_folder_on_the_path_wins(tmp_path: Path) -> None:
    for name, version in (("a", "1.20.0"), ("b", "1.32.0")):
        (tmp_path / name / f"onnxruntime-{version}.dist-info").mkdir(parents=True)
    assert installed([str(tmp_path / "a"), str(tmp_path / "b")]) == {"onnxruntime": "1.20.0"}


def test_folders_agree_with_the_packages_metadata() -> None:
    import importlib.metadata

    for package, version in installed().items():
        assert importlib.metadata.version(package) == version


def test_reading_hardware_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from agent.hardware import HardwareSettings, read_fingerprint\n"
        "from agent.sensors import find_meter, snapshot\n"
        "from agent.jobs import RuntimeOptions\n"
        "read_fingerprint(root='/', settings=HardwareSettings(), options=RuntimeOptions())\n"
        "snapshot(); heavy = {'numpy', 'onnxruntime', 'ai_edge_litert', 'google', 'grpc',"
        " 'platform', 'ctypes', 'importlib.metadata', 'asyncio', 'profiles'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True, text=True, check=False,
        env={"PYTHONPATH": ".:protos", "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).resolve().parents[4],
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
