"""Compile ``protos/fitment/*/*.proto`` with the pinned, deliberately old generator.

    python protos/generate.py           write the generated code
    python protos/generate.py --check   fail when the committed code is stale

The generator sets the lowest protobuf and grpcio that every device needs, so it is pinned low
and lives in an environment of its own (its pins conflict with the controller's). That
environment is made on first use, in the user's cache folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
GENERATOR = ("grpcio-tools==1.71.2", "protobuf==5.29.6", "mypy-protobuf==3.6.0", "setuptools<81")
SERVICES = ("fitment/v1/gateway.proto", "fitment/oip/open_inference.proto")


def environment() -> Path:
    """The interpreter of the generator's own environment, made when it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = cache / "fitment" / "tools" / "protos-grpcio-tools-1.71.2"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"Making the generator's environment in {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *GENERATOR]
        subprocess.run(install, check=True)
        (home / "ready").touch()
    return python


def compile_into(target: Path) -> None:
    """Run the generator over all files, writing below ``target``."""
    sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("fitment/*/*.proto"))
    python = environment()
    plugin = python.parent / "protoc-gen-mypy"
    command = [str(python), "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={target}"]
    command += [f"--plugin=protoc-gen-mypy={plugin}", f"--mypy_out=quiet:{target}"]
    subprocess.run([*command, *sources], check=True, cwd=ROOT)
    services = [str(python), "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--grpc_python_out={target}"]
    subprocess.run([*services, *SERVICES], check=True, cwd=ROOT)


def stale(target: Path) -> list[str]:
    """Generated files whose committed form differs from what is in ``target``."""
    fresh = {p.relative_to(target): p.read_bytes() for p in target.rglob("*_pb2*") if p.is_file()}
    committed = {p.relative_to(ROOT) for p in ROOT.glob("fitment/*/*_pb2*")}
    different = [
        str(path)
        for path, data in fresh.items()
        if not (ROOT / path).exists() or (ROOT / path).read_bytes() != data
    ]
    return sorted(different + [str(path) for path in committed - fresh.keys()])


def main() -> int:
    """Write, or with ``--check`` compare."""
    parser = argparse.ArgumentParser(description="Compile the protocol.")
    parser.add_argument("--check", action="store_true", help="fail when committed code is stale")
    check = parser.parse_args().check
    if not check:
        compile_into(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        compile_into(Path(folder))
        different = stale(Path(folder))
    if different:
        print("Stale generated code: " + ", ".join(different), file=sys.stderr)
        print("Run: python protos/generate.py", file=sys.stderr)
        return 1
    print("Generated code is fresh.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
