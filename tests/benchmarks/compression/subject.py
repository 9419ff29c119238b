"""The networks of the comparisons, laid out once in files that every tool reads.

``WORK/subjects/NAME/torch`` and ``…/onnx`` are workloads; ``…/peer`` holds the same network and
data as plain files: ``model.onnx`` (fp32), ``network.py`` with ``weights.npz``, calibration
inputs without labels, guard and training data with labels. Test data are not among them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controller.catalog import workload as catalog
from controller.compress.base import Candidate, Context, Form
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.examples.fashion_mnist import network as fashion_network
from controller.examples.fashion_mnist import workload as fashion
from controller.examples.fashion_mnist.train import train

TEMPLATES = Path(__file__).parent / "subjects"
SPLITS = ("calibration_a", "calibration_b", "train", "test")
RECOVER = {"epochs": 3, "samples": 12_000, "learning_rate": 0.05}
DEPTHWISE_EPOCHS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One network and its data."""

    name: str
    root: Path

    @property
    def torch(self) -> Path:
        return self.root / "torch"

    @property
    def onnx(self) -> Path:
        return self.root / "onnx"

    @property
    def peer(self) -> Path:
        return self.root / "peer"

    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Test inputs as stored (uint8) and labels."""
        with np.load(self.torch / "data.npz", allow_pickle=False) as held:
            return held["test_inputs"], held["test_labels"]


def prepare(work: Path, name: str, recover: Mapping[str, float] = RECOVER) -> Subject:
    """Lay a subject out, or find it laid out: ``fashion_mnist``, ``depthwise``, ``fashion_xN``."""
    subject = Subject(name=name, root=work / "subjects" / name)
    if not (subject.peer / "model.onnx").is_file():
        made = {"fashion_mnist": _shipped, "depthwise": _depthwise}.get(name)
        file, facts, module = made() if made else _scaled(int(name.removeprefix("fashion_x")))
        _write(subject, file, {**facts, "recover": dict(recover)}, module)
    return subject


def _shipped() -> tuple[Path, dict[str, Any], Any]:
    facts = {"network": "FashionNet", "widths": fashion_network.WIDTHS}
    return Path(fashion_network.__file__), facts, fashion.source()


def _depthwise() -> tuple[Path, dict[str, Any], Any]:
    from tests.benchmarks.compression.subjects.depthwise import DepthwiseNet

    module = DepthwiseNet()
    _train(module, epochs=DEPTHWISE_EPOCHS, images=None)
    widths = (16, 24, 40, 64, 128)
    return TEMPLATES / "depthwise.py", {"network": "DepthwiseNet", "widths": widths}, module


def _scaled(parameters: int) -> tuple[Path, dict[str, Any], Any]:
    """The shipped network with about ``parameters`` times as many, barely trained.

    For questions of time alone: its accuracy is that of a network trained on 6,000 images.
    """
    widths = tuple(round(w * parameters**0.5 / 8) * 8 for w in fashion_network.WIDTHS)
    module = fashion_network.FashionNet(widths)
    _train(module, epochs=1, images=6_000)
    facts = {"network": "FashionNet", "widths": widths}
    return Path(fashion_network.__file__), facts, module


def _train(module: Any, *, epochs: int, images: int | None) -> None:
    import torch

    torch.manual_seed(1)
    stored, labels = fashion.data("train")
    chosen = slice(None) if images is None else slice(0, images)
    inputs = torch.from_numpy(stored[chosen].astype(np.float32) / 255.0)
    train(module, inputs, torch.from_numpy(labels[chosen]), epochs=epochs, seed=1)
    module.eval()


def _write(subject: Subject, network: Path, facts: Mapping[str, Any], module: Any) -> None:
    parts = {split: fashion.data(split) for split in SPLITS}
    for folder in (subject.torch, subject.onnx, subject.peer):
        folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{s}_inputs": pair[0] for s, pair in parts.items()}
    arrays |= {f"{s}_labels": pair[1] for s, pair in parts.items()}
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    for folder in (subject.torch, subject.peer):
        shutil.copyfile(network, folder / "network.py")
        (folder / "subject.json").write_text(json.dumps(facts, indent=2) + "\n")
        np.savez(folder / "weights.npz", **weights)
    for folder in (subject.torch, subject.onnx):
        kept = {k: v for k, v in arrays.items() if folder == subject.torch or "train" not in k}
        np.savez(folder / "data.npz", **kept)
        template = TEMPLATES / f"{folder.name}_workload.py"
        shutil.copyfile(template, folder / "workload.py")
    _write_peer(subject, parts)
    content = export(subject)
    (subject.onnx / "model.onnx").write_bytes(content)
    (subject.peer / "model.onnx").write_bytes(content)


def _write_peer(subject: Subject, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    scale = np.float32(fashion.input_scale)
    np.savez(subject.peer / "calibration.npz", inputs=parts["calibration_a"][0] * scale)
    guard, answers = parts["calibration_b"]
    np.savez(subject.peer / "guard.npz", inputs=guard * scale, labels=answers)
    np.savez(subject.peer / "train.npz", inputs=parts["train"][0], labels=parts["train"][1])


def export(subject: Subject) -> bytes:
    """The subject's fp32 ONNX file, normalization folded."""
    workload = catalog.load(subject.torch)
    context = Context(
        workload=workload, splits={"calibration_a": workload.data("calibration_a")}, threads=1
    )
    candidate = Candidate(form=Form.TORCH, payload=workload.source())
    for step in (FoldBatchNorm(), ExportOnnx()):
        candidate = step.run(candidate, context)
    content: bytes = candidate.payload.SerializeToString(deterministic=True)
    return content
