"""The networks of the comparisons, laid out once in files that every tool reads.

``WORK/subjects/NAME/torch`` and ``…/onnx`` are workloads; ``…/peer`` holds the same network and
data as plain files: ``model.onnx`` (fp32), ``network.py`` with ``weights.npz``, calibration
inputs without labels, guard and training data with labels. Test data are not among them.
``subject.json`` says how the network is made, which layer is its head, and what its input is:
name, shape, type and the scale that makes stored values real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
IMAGES = {"name": "images", "shape": [1, 28, 28], "dtype": "float32", "scale": 1.0 / 255.0}
NAMES = ("fashion_mnist", "depthwise", "spam")
Parts = Mapping[str, tuple[np.ndarray, np.ndarray]]


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
        """Test inputs as the network takes them, and labels."""
        facts = json.loads((self.torch / "subject.json").read_text())
        with np.load(self.torch / "data.npz", allow_pickle=False) as held:
            return _real(held["test_inputs"], facts["input"]), held["test_labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What a subject is laid out from."""

    network: Path  # the file that defines it
    facts: Mapping[str, Any]
    module: Any
    parts: Parts


def prepare(work: Path, name: str, recover: Mapping[str, float] = RECOVER) -> Subject:
    """Lay a subject out, or find it laid out: one of `NAMES`, or ``fashion_xN[_of_INPUTS]``.

    With INPUTS, that many are trained on, and tell guard and test accuracy.
    """
    subject = Subject(name=name, root=work / "subjects" / name)
    if not (subject.peer / "model.onnx").is_file():
        made = {"fashion_mnist": _shipped, "depthwise": _depthwise}.get(name)
        if name == "spam":
            found = _spam(work / "sources" / "spam")
        else:
            found = made() if made else _scaled(*_asked(name))
        _write(subject, found, recover)
    return subject


def _images(network: Path, kind: str, widths: tuple[int, ...], module: Any) -> _Made:
    facts = {"network": kind, "arguments": [widths], "head": "classifier", "input": IMAGES}
    parts = {split: fashion.data(split) for split in SPLITS}
    return _Made(network=network, facts=facts, module=module, parts=parts)


def _shipped() -> _Made:
    file = Path(fashion_network.__file__)
    return _images(file, "FashionNet", fashion_network.WIDTHS, fashion.source())


def _depthwise() -> _Made:
    from tests.benchmarks.compression.subjects.depthwise import DepthwiseNet

    module = DepthwiseNet()
    _train(module, epochs=DEPTHWISE_EPOCHS, images=None)
    file = TEMPLATES / "depthwise.py"
    return _images(file, "DepthwiseNet", (16, 24, 40, 64, 128), module)


def _spam(work: Path) -> _Made:
    """The text network as its own workload trains it; accuracy is compared, not its alarms."""
    from tests.benchmarks.compression.subjects.spam import prepare as spam

    workload = catalog.load(spam.prepare(work))
    parts = {split: _pair(workload.data(split)) for split in SPLITS}
    facts = {
        "network": "TextNet",
        "arguments": [],
        "head": "head",
        "input": {
            "name": workload.input_name,
            "shape": list(workload.input_shape),
            "dtype": parts["test"][0].dtype.name,
            "scale": 1.0,
        },
        "recover": dict(workload.recover),
    }
    file = TEMPLATES / "spam" / "network.py"
    return _Made(network=file, facts=facts, module=workload.source(), parts=parts)


def _pair(split: Any) -> tuple[np.ndarray, np.ndarray]:
    return split.inputs, split.labels


def _asked(name: str) -> tuple[int, int | None]:
    """Times the parameters, and inputs, of ``fashion_xN[_of_INPUTS]``."""
    size, _, inputs = name.removeprefix("fashion_x").partition("_of_")
    return int(size), int(inputs) if inputs else None


def _scaled(parameters: int, inputs: int | None) -> _Made:
    """The shipped network with about ``parameters`` times as many, barely trained.

    For questions of time alone: its accuracy is that of a network trained on 6,000 images, or on
    ``inputs``, to which its data are then cut.
    """
    widths = tuple(round(w * parameters**0.5 / 8) * 8 for w in fashion_network.WIDTHS)
    module = fashion_network.FashionNet(widths)
    _train(module, epochs=1, images=inputs or 6_000)
    made = _images(Path(fashion_network.__file__), "FashionNet", widths, module)
    cut = {name: (x[:inputs], y[:inputs]) for name, (x, y) in made.parts.items()}
    return replace(made, parts=cut)


def _train(module: Any, *, epochs: int, images: int | None) -> None:
    import torch

    torch.manual_seed(1)
    stored, labels = fashion.data("train")
    chosen = slice(None) if images is None else slice(0, images)
    inputs = torch.from_numpy(stored[chosen].astype(np.float32) / 255.0)
    train(module, inputs, torch.from_numpy(labels[chosen]), epochs=epochs, seed=1)
    module.eval()


def _write(subject: Subject, made: _Made, recover: Mapping[str, float]) -> None:
    facts = {"recover": dict(recover), **made.facts}
    for folder in (subject.torch, subject.onnx, subject.peer):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "subject.json").write_text(json.dumps(facts, indent=2) + "\n")
    arrays = {f"{s}_inputs": pair[0] for s, pair in made.parts.items()}
    arrays |= {f"{s}_labels": pair[1] for s, pair in made.parts.items()}
    weights = {name: value.detach().numpy() for name, value in made.module.state_dict().items()}
    for folder in (subject.torch, subject.peer):
        shutil.copyfile(made.network, folder / "network.py")
        np.savez(folder / "weights.npz", **weights)
    for folder in (subject.torch, subject.onnx):
        kept = {k: v for k, v in arrays.items() if folder == subject.torch or "train" not in k}
        np.savez(folder / "data.npz", **kept)
        template = TEMPLATES / f"{folder.name}_workload.py"
        shutil.copyfile(template, folder / "workload.py")
    _write_peer(subject, made.parts, facts["input"])
    content = export(subject)
    (subject.onnx / "model.onnx").write_bytes(content)
    (subject.peer / "model.onnx").write_bytes(content)


def _write_peer(subject: Subject, parts: Parts, given: Mapping[str, Any]) -> None:
    np.savez(subject.peer / "calibration.npz", inputs=_real(parts["calibration_a"][0], given))
    guard, answers = parts["calibration_b"]
    np.savez(subject.peer / "guard.npz", inputs=_real(guard, given), labels=answers)
    np.savez(subject.peer / "train.npz", inputs=parts["train"][0], labels=parts["train"][1])


def _real(stored: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    """Stored inputs as the network takes them; tokens keep their values."""
    if given["dtype"] != "float32":
        return stored.astype(given["dtype"])
    return stored.astype(np.float32) * np.float32(given["scale"])


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
