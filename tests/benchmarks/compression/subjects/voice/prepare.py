"""Lay a voice subject out, and judge variants over whole streams.

``python -m tests.benchmarks.compression.subjects.voice.prepare WORK [FILE]`` lays it out with the
network FILE of the wheel ``silero-vad`` (MIT): ``silero_vad_16k_op15.onnx`` (convolutions, an LSTM
inside an ``If``), or ``silero_vad.onnx`` (one ``If`` around everything, one branch a rate).
``… stream WORK VARIANT.onnx …`` then runs files over the test streams, each with its own state.

Speech is made by espeak-ng, whose library and voices the wheel ``espeakng-loader`` brings. White
noise is laid over all of it. A frame is speech when the sound without noise has more than 0.1 % of
the loudest frame's energy there: labels by energy, not by ear.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from controller.compress import statistics
from tests.benchmarks.compression.subjects import packages

RATE, FRAME, CONTEXT = 16_000, 512, 64
VOICES = ("gmw/en-US", "gmw/en", "gmw/de", "roa/fr", "roa/es", "roa/it")
_SYNCHRONOUS, _UTF8 = 2, 1  # AUDIO_OUTPUT_SYNCHRONOUS, espeakCHARS_UTF8
TEXTS = {
    "calibration_a": ("the boat leaves at seven", "nobody knew the answer", "two cups of tea"),
    "calibration_b": (
        "please close the door behind you", "rain is expected in the north tomorrow",
        "she sold nine old books", "the machine stopped working", "call me when you arrive",
    ),
    "test": (
        "a quick look at the weather", "my brother plays the piano", "open the window a little",
        "the train to the city is late", "we have enough time for lunch", "he never said why",
        "turn left after the bridge", "eleven people were waiting outside",
    ),
}  # fmt: skip
HERE = Path(__file__).parent


class Voice:
    """espeak-ng through its C interface: text in, sound out."""

    def __init__(self, work: Path) -> None:
        packages.installed(work, "espeakng-loader==0.2.4")
        import espeakng_loader

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        self._heard: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._listener = kind(self._listen)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._listener)

    def _listen(self, sound: Any, count: int, _events: Any) -> int:
        if sound and count:
            self._heard.append(np.ctypeslib.as_array(sound, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str) -> np.ndarray:
        """A sentence at 16 kHz, -1…1."""
        self._heard = []
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice '{voice}'")
        spoken = text.encode() + b"\0"
        self._library.espeak_Synth(spoken, len(spoken), 0, 0, 0, _UTF8, None, None)
        values = np.concatenate(self._heard).astype(np.float32) / 32_768
        places = np.arange(0, len(values) - 1, self._rate / RATE)
        return np.interp(places, np.arange(len(values)), values).astype(np.float32)


def stream(voice: Voice, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [N, 576] with what came before each, and labels [N]."""
    random = np.random.default_rng(seed)
    pieces = []
    for number, text in enumerate(TEXTS[part]):
        pieces += [np.zeros(int(RATE * random.uniform(0.3, 1.0)), np.float32)]
        pieces += [voice.speak(text, VOICES[(number + seed) % len(VOICES)])]
    clean = np.concatenate(pieces)
    clean = np.concatenate([clean, np.zeros(-len(clean) % FRAME, np.float32)])
    decibels = np.repeat(
        random.choice([20.0, 10.0, 5.0], len(clean) // FRAME // 40 + 1), 40 * FRAME
    )
    power = np.square(clean[clean != 0]).mean() / 10 ** (decibels[: len(clean)] / 10)
    noisy = clean + random.normal(0.0, 1.0, len(clean)) * np.sqrt(power)
    energy = np.square(clean.reshape(-1, FRAME)).mean(axis=1)
    padded = np.concatenate([np.zeros(CONTEXT), noisy]).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
    return frames, (energy > 0.001 * energy.max()).astype(np.int64)


def run(model: bytes | str, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs [N] over one stream, and the state [N, 2, 1, 128] that each frame met."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    state, outputs, states = np.zeros((2, 1, 128), np.float32), [], []
    for frame in frames:
        states.append(state)
        feed: dict[str, Any] = {"input": frame[None], "state": state, "sr": np.array(RATE)}
        found, state = session.run(None, feed)
        outputs.append(float(found[0, 0]))
    return np.array(outputs), np.stack(states)


def prepare(work: Path, file: str = "silero_vad_16k_op15.onnx") -> Path:
    """The workload's folder, laid out where it was not yet."""
    target = work / file.removesuffix(".onnx")
    if (target / "data.npz").is_file():
        return target
    model = packages.wheel_file(work, "silero-vad==6.2.3", f"silero_vad/data/{file}")
    target.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    voice = Voice(work)
    for seed, part in enumerate(TEXTS):
        frames, labels = stream(voice, part, seed)
        arrays[f"{part}_input"], arrays[f"{part}_labels"] = frames[:, None], labels
        arrays[f"{part}_state"] = run(str(model), frames)[1]
        arrays[f"{part}_sr"] = np.full(len(frames), RATE)
    shutil.copyfile(model, target / "model.onnx")
    shutil.copyfile(HERE / "workload.py", target / "workload.py")
    np.savez_compressed(target / "data.npz", **arrays)
    return target


def judge(work: Path, files: list[Path]) -> None:
    """Accuracy of each file over the test stream with its own state, and its interval."""
    frames, labels = stream(Voice(work), "test", list(TEXTS).index("test"))
    for file in files:
        right = (run(str(file), frames)[0] >= 0.5) == labels
        low, high = statistics.wilson(int(right.sum()), len(right))
        print(f"{file.name}: {right.mean():.4f} ({low:.4f} to {high:.4f}) of {len(right)} frames")


if __name__ == "__main__":
    if sys.argv[1] == "stream":
        judge(Path(sys.argv[2]), [Path(file) for file in sys.argv[3:]])
    else:
        print(prepare(Path(sys.argv[1]), *sys.argv[2:]))
