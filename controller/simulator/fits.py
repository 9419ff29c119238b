"""The fit side of a simulation: every fit gives the same modelled variants, at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.domain import fleet
from controller.reconcile.fitrunner import BuiltProbe, FitProgress
from controller.simulator.physics import LAYERS
from fitment.core import digest, plain
from fitment.core.deployment import BundleRef

ARCHIVE_BYTES = 2_000_000
"""What a device fetches, as its order says; the content is a line of text."""


def bundle(name: str) -> BundleRef:
    """A reference to content that is made from its name."""
    made = digest.digest_of({"modelled": name})
    return BundleRef(
        variant=made, name=name, archive=digest.digest_bytes(_content(name)),
        archive_bytes=ARCHIVE_BYTES, target=f"bundles/{digest.hex_of(made)}.tar.xz",
    )  # fmt: skip


def variant(name: str, model: str) -> fleet.Variant:
    """A variant whose evidence is modelled."""
    drop = 0.0 if name == "fp32" else 0.004
    return fleet.Variant(
        name=name, bundle=bundle(name), model=model, format="onnx", runtime="onnx",
        scheme="fp32" if name == "fp32" else "u8s8", recipe=(name,), recipe_digest=name,
        accuracy=0.9 - drop, accuracy_interval=None, agreement=0.99, sqnr_db=30.0,
        guard_accuracy=0.9 - drop, guard_accuracy_drop=drop, guard_agreement=0.99,
        integer_coverage=None, file_bytes=ARCHIVE_BYTES, wire_bytes=ARCHIVE_BYTES,
        macs=int(sum(LAYERS) * 1e6), lineage={"modelled": "yes"},
    )  # fmt: skip


def _content(name: str) -> bytes:
    return f"a modelled bundle: {name}".encode()


class ModelledFits:
    """Takes the place of worker processes."""

    def __init__(
        self, folder: Path, model: str, variants: Sequence[fleet.Variant] | None = None
    ) -> None:
        self._folder = folder
        self._variants = variants or [variant(name, model) for name in ("fp32", "int8")]
        self._known: set[str] = set()

    def start(self, job: str, _request: Mapping[str, Any]) -> None:
        self._known.add(job)

    def known(self, job: str) -> bool:
        return job in self._known

    def poll(self, _job: str) -> FitProgress:
        made = list(self._variants)
        result = {
            "variants": plain.to_plain(made), "fp32_accuracy": 0.9, "fp32_bytes": ARCHIVE_BYTES,
            "archives": {v.bundle.archive: str(self._file(v.name)) for v in made},
            "reasons": {"onnx": "modelled"},
        }  # fmt: skip
        return FitProgress(step="done", fraction=1.0, done=True, result=result)

    def probe_bundle(self, runtime: str) -> BuiltProbe | None:
        name = f"probe-{runtime}"
        return BuiltProbe(ref=bundle(name), archive=str(self._file(name)))

    def cancel(self, job: str) -> None:
        """Nothing is under way."""

    def stop(self) -> None:
        self._known.clear()

    def _file(self, name: str) -> Path:
        path = self._folder / f"{name}.tar.xz"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_content(name))
        return path
