"""Lay the angle subject out.

``python -m tests.benchmarks.compression.subjects.angle.prepare WORK``

The network is the angle classifier of the wheel ``rapidocr`` (Apache-2.0). The lines are rendered
here with the DejaVu fonts (Debian ``fonts-dejavu``): words in two faces, on grounds and in inks of
any colour, blurred and noisy, half of them turned by 180 degrees. Pillow, which draws them, and the
wheel are fetched with the configured registry into WORK, never into the repository.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.compression.subjects import packages

MODEL = "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
FONTS = Path("/usr/share/fonts/truetype/dejavu")
FACES = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf")
COUNTS = {"calibration_a": 128, "calibration_b": 600, "test": 1_000}
HEIGHT, WIDTH = 48, 192
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
SHARE = 1.0 / np.arange(1, len(LETTERS) + 1) ** 0.7
HERE = Path(__file__).parent


def prepare(work: Path) -> Path:
    """The workload's folder, laid out where it was not yet."""
    target = work / "workload"
    if (target / "data.npz").is_file():
        return target
    model = packages.wheel_file(work, "rapidocr==3.10.0", MODEL)
    packages.installed(work, "pillow==12.0.0")
    target.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for seed, (part, count) in enumerate(COUNTS.items()):
        random = np.random.default_rng(seed)
        words = [_text(random) for _ in range(count)]
        turned = random.integers(0, 2, count)
        arrays[f"{part}_inputs"] = np.stack(
            [line(word, bool(t), random) for word, t in zip(words, turned, strict=True)]
        )
        arrays[f"{part}_labels"] = turned
        arrays[f"{part}_letters"] = np.array([len(word) for word in words])
    shutil.copyfile(model, target / "model.onnx")
    shutil.copyfile(HERE / "workload.py", target / "workload.py")
    np.savez_compressed(target / "data.npz", **arrays)
    return target


def _text(random: np.random.Generator) -> str:
    words = []
    for _ in range(int(random.integers(1, 3))):
        letters = random.choice(list(LETTERS), int(random.integers(3, 9)), p=SHARE / SHARE.sum())
        word = "".join(letters)
        words.append(word.capitalize() if random.random() < 0.4 else word)
    return " ".join(words)


def line(text: str, turned: bool, random: np.random.Generator) -> np.ndarray:
    """One line as the classifier is fed it, uint8 [3, 48, 192], blue first."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.truetype(str(FONTS / str(random.choice(FACES))), int(random.integers(24, 40)))
    left, top, right, bottom = font.getbbox(text)
    ground = random.integers(0, 256, 3)
    ink = (ground + random.choice([-1, 1]) * random.integers(90, 128, 3)) % 256
    size = (int(right - left) + 12, int(bottom - top) + 12)
    image: Any = Image.new("RGB", size, tuple(map(int, ground)))
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, font=font, fill=tuple(map(int, ink)))
    image = image.rotate(float(random.normal(0.0, 2.0)), fillcolor=tuple(map(int, ground)))
    if turned:
        image = image.rotate(180)
    image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.0, 0.8))))
    width = min(WIDTH, max(1, round(image.width * HEIGHT / image.height)))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    noisy = np.clip(pixels + random.normal(0.0, 6.0, pixels.shape), 0, 255)
    made = np.full((3, HEIGHT, WIDTH), 127, np.uint8)  # what normalizing turns to nearly zero
    made[:, :, :width] = noisy[:, :, ::-1].transpose(2, 0, 1).astype(np.uint8)
    return made


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1])))
