"""The light install is tested, not hoped for: a wheel, a clean environment, and from ``/``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

BASE_BUDGET_MB = 52  # 7 of them the example workloads
HEAVY = ("numpy", "onnxruntime", "ai_edge_litert", "torch", "onnx", "sqlmodel", "fastapi")


def installed_mb(site: Path) -> float:
    """Size beyond a bare environment, which already holds pip and setuptools."""
    files = [p for p in site.rglob("*") if p.is_file() and not p.is_symlink()]
    outside = ("pip", "setuptools", "pip-", "setuptools-", "_distutils_hack", "pkg_resources")
    counted = [p for p in files if not p.relative_to(site).parts[0].startswith(outside)]
    return sum(p.stat().st_size for p in counted) / 1e6


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(target), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = target.glob("fitment-*.whl")
    return built


@pytest.fixture(scope="module")
def light(root: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the base install alone."""
    home = tmp_path_factory.mktemp("light")
    venv.create(home, with_pip=True)
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    command += ["--no-compile", "--constraint", str(root / "deploy/locks/main.txt"), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return home


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(
        [str(home / "bin" / command[0]), *command[1:]],
        cwd="/", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_wheel_holds_what_runs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"agent/cli.py", "controller/__main__.py", "fitment/v1/device_pb2.py"} <= names
    assert any(name.startswith("profiles/data/") and name.endswith(".toml") for name in names)
    assert any(n.startswith("controller/examples/fashion_mnist/") and "xz" in n for n in names)
    assert not [n for n in names if n.startswith(("tests/", "deploy/", "protos/"))]


def test_the_doctor_runs_on_the_base_install_alone(light: Path) -> None:
    done = run(light, "fitment-agent", "doctor", "--json")
    assert done.returncode in {0, 1}, done.stderr
    findings = json.dumps(json.loads(done.stdout))
    assert "no runtime" in findings.lower()
    assert "Traceback" not in done.stderr


def test_the_base_install_stays_light(light: Path) -> None:
    (site,) = light.glob("lib/python*/site-packages")
    assert [name for name in HEAVY if (site / name).exists()] == []
    assert installed_mb(site) <= BASE_BUDGET_MB


def test_help_needs_nothing_more(light: Path) -> None:
    done = run(light, "fitment-agent", "--help")
    assert done.returncode == 0
    assert "enroll" in done.stdout


def test_fitment_says_what_it_misses(light: Path) -> None:
    done = run(light, "fitment", "status")
    assert done.returncode == 2
    assert "fitment[controller]" in done.stderr


@pytest.mark.parametrize("package", ["agent", "controller", "profiles", "fitment"])
def test_import_names_are_ours_alone(package: str) -> None:
    owners = importlib.metadata.packages_distributions().get(package, ["fitment"])
    assert set(owners) == {"fitment"}


def test_nothing_is_imported_from_the_working_folder(light: Path) -> None:
    code = "import agent, fitment; print(agent.__file__, fitment.__file__)"
    done = run(light, "python", "-c", code)
    assert done.stdout.count(os.fspath(light)) == 2, done.stdout + done.stderr
