"""Lines of text in any number, drawn as the angle subject draws its own, with other seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.compression.subjects import packages
from tests.benchmarks.compression.subjects.angle import prepare

Lines = NDArray[np.uint8]
Labels = NDArray[np.int64]


def drawn(work: Path, *, seed: int, count: int) -> tuple[Lines, Labels]:
    """Lines uint8 [N, 3, 48, 192] and whether they are turned; kept in ``work``.

    A line costs a millisecond: 10,000 take ten seconds of one core.
    """
    kept = work / f"lines-{seed}-{count}.npz"
    if not kept.is_file():
        packages.installed(work, "pillow==12.0.0")
        random = np.random.default_rng(seed)
        words = [prepare._text(random) for _ in range(count)]
        turned = random.integers(0, 2, count)
        pairs = zip(words, turned, strict=True)
        made = np.stack([prepare.line(word, bool(turn), random) for word, turn in pairs])
        work.mkdir(parents=True, exist_ok=True)
        np.savez(kept, lines=made, turned=turned)
    with np.load(kept, allow_pickle=False) as held:
        return held["lines"], held["turned"]
