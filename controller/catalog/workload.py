"""The workload: the small Python file by which a user hands a model over.

It imports nothing of ours. Fixed names, all at module level:

    name, version        plain strings
    source()             -> a torch.nn.Module in eval mode, or the path of an .onnx or .pt2 file
    input_shape          tuple without the batch axis; with several inputs a dict of what one run
                         takes of each, the batch axis included: {"audio": (1, 512), "rate": ()}
    data(split)          -> (inputs, labels) for "calibration_a", "calibration_b", "test" and
                         optionally "train" and "must_pass"; inputs [N, *input_shape], float32,
                         uint8, or int64 for tokens; with several inputs a dict of such
    metric(outputs, labels) -> float, higher is better, on numpy arrays

and optionally ``input_name``, ``input_scale`` (real = scale * stored), ``labels``, ``budget``,
``profile_budgets``, ``calibrate_profiles``, ``preprocessing``, ``files``, ``recover``, and
``slices(split)``: a mapping from the name of a slice to a boolean mask [N] of the split's inputs;
and of a detector ``operating_point``: {"positive": its class, "false_positive_rate_max": 0.01}.

``load`` runs the file, so it belongs in worker processes only.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import samples
from controller.catalog.foreign import translated
from controller.catalog.samples import Shapes
from controller.catalog.snapshot import WORKLOAD_FILE, Description, Snapshot, describe, snapshot
from controller.domain.choice import PREFERENCES
from controller.domain.fleet import Budget
from controller.errors import WorkloadError

__all__ = [
    "Description",
    "Snapshot",
    "Split",
    "Workload",
    "describe",
    "load",
    "snapshot",
]

Array = NDArray[Any]
MEND = "mend the workload file, or what it reads"
CALIBRATION, GUARD, TEST, TRAIN = "calibration_a", "calibration_b", "test", "train"
MUST_PASS = "must_pass"  # noqa: S105 - the name of a split


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of the data: ``inputs`` as stored, [N, …]; ``labels`` with the same first axis.

    Several inputs are one structured array [N], see `samples`.
    """

    inputs: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """Which class is detected, and how often it may be a false alarm."""

    positive: int  # class number
    name: str
    false_positive_rate_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A loaded workload: typed values and guarded calls into the user's code."""

    name: str
    version: str
    folder: Path
    input_shape: Shapes
    input_name: str = "input"
    input_scale: float = 1.0
    labels: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    profile_budgets: Mapping[str, Budget] = field(default_factory=dict)
    calibrate_profiles: tuple[str, ...] = ()
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    recover: Mapping[str, float] = field(default_factory=dict)
    detector: Detector | None = None
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def source(self) -> Any:
        """The module (a torch one, in eval mode) or the path of an .onnx or .pt2 file.

        Raises:
            WorkloadError: ``source()`` raises, or gives neither of them.
        """
        with self._guard("source()"):
            made = self.functions["source"]()
        if isinstance(made, str | Path):
            path = self.folder / made
            if not path.is_file():
                raise WorkloadError(
                    f"{self.name}: source() names '{made}', which is not in the snapshot; "
                    "add it to `files`"
                )
            return path
        if not (callable(made) and hasattr(made, "state_dict") and hasattr(made, "eval")):
            raise WorkloadError(
                f"{self.name}: source() returned a {type(made).__name__}; return a "
                "torch.nn.Module or the path of an .onnx or .pt2 file"
            )
        made.eval()
        return made

    def data(self, split: str) -> Split:
        """One part of the data.

        Raises:
            WorkloadError: it raises, or its shapes or types do not fit.
        """
        with self._guard(f"data('{split}')"):
            pair = self.functions["data"](split)
        return self._split(split, pair)

    def optional_data(self, split: str) -> Split | None:
        """A split that a workload need not bring ("train", "must_pass"), or None.

        "None" is said by returning None, or by the KeyError of looking the name up.
        """
        with self._guard(f"data('{split}')"):
            try:
                pair = self.functions["data"](split)
            except KeyError as error:
                if error.args != (split,):
                    raise
                return None
        return None if pair is None else self._split(split, pair)

    def slices(self, split: str, count: int) -> Mapping[str, NDArray[np.bool_]]:
        """Named slices of a split with ``count`` inputs: boolean masks [count].

        Raises:
            WorkloadError: it raises, or a mask has another shape or type.
        """
        if "slices" not in self.functions:
            return {}
        with self._guard(f"slices('{split}')"):
            masks = {str(k): np.asarray(v) for k, v in self.functions["slices"](split).items()}
        for name, mask in masks.items():
            if mask.shape != (count,) or mask.dtype != np.bool_:
                raise WorkloadError(
                    f"{self.name}: slices('{split}')['{name}'] is {mask.dtype} of shape "
                    f"{mask.shape}; a boolean mask of shape ({count},) is needed"
                )
        return masks

    def _split(self, split: str, pair: Any) -> Split:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise WorkloadError(f"{self.name}: data('{split}') must return (inputs, labels)")
        inputs = samples.stored(self.name, split, pair[0], self.input_shape)
        labels = np.asarray(pair[1])
        if labels.ndim == 0 or len(labels) != len(inputs):
            raise WorkloadError(
                f"{self.name}: data('{split}') gives {len(inputs)} inputs but labels of shape "
                f"{labels.shape}; the first axes must be equal"
            )
        if self.input_scale != 1.0 and (samples.is_whole(inputs) or samples.names(inputs)):
            raise WorkloadError(
                f"{self.name}: `input_scale` is for one input of numbers, not for tokens and not "
                "for several inputs; leave it out and give inputs as the model takes them"
            )
        return Split(inputs=inputs, labels=labels)

    def real(self, stored: Array) -> Array:
        """What the model is fed: ``input_scale * stored`` as float32.

        Tokens and named inputs are fed as they are.
        """
        if samples.is_whole(stored) or samples.names(stored):
            return stored
        if stored.dtype == np.float32 and self.input_scale == 1.0:
            return stored
        return stored.astype(np.float32) * np.float32(self.input_scale)

    def metric(self, outputs: Array, labels: Array) -> float:
        """The user's metric, higher is better.

        Raises:
            WorkloadError: it raises, or gives no finite number.
        """
        with self._guard("metric(outputs, labels)"):
            value = float(self.functions["metric"](outputs, labels))
        if not math.isfinite(value):
            raise WorkloadError(
                f"{self.name}: metric(outputs, labels) gave {value}; it must be a finite number"
            )
        return value

    def _guard(self, what: str) -> Any:
        return translated(
            WorkloadError, f"{self.name}: {what} failed", below=self.folder, mend=MEND
        )


def load(folder: Path) -> Workload:
    """Run the ``workload.py`` in ``folder`` and wrap it. For worker processes only.

    Raises:
        WorkloadError: the file raises, or a name is missing or has the wrong type.
    """
    folder = folder.resolve()
    path = folder / WORKLOAD_FILE
    described = describe(path)
    module = _execute(path)
    shape = _shapes(path, _value(module, "input_shape", (tuple, list, dict), ()))
    scale = float(_value(module, "input_scale", (int, float), 1.0))
    if not (math.isfinite(scale) and scale > 0):
        raise WorkloadError(f"{path}: `input_scale` must be a positive number, not {scale}")
    profiles = _value(module, "profile_budgets", (dict,), {})
    return Workload(
        name=described.name,
        version=described.version,
        folder=folder,
        input_shape=shape,
        input_name=_value(module, "input_name", (str,), "input"),
        input_scale=scale,
        labels=tuple(map(str, _value(module, "labels", (tuple, list), ()))),
        budget=_budget(path, "budget", _value(module, "budget", (dict,), {})),
        profile_budgets={
            str(name): _budget(path, f"profile_budgets['{name}']", keys)
            for name, keys in profiles.items()
        },
        calibrate_profiles=tuple(_value(module, "calibrate_profiles", (tuple, list), ())),
        preprocessing={
            str(k): str(v) for k, v in _value(module, "preprocessing", (dict,), {}).items()
        },
        recover={str(k): float(v) for k, v in _value(module, "recover", (dict,), {}).items()},
        detector=_detector(path, module),
        functions={n: _function(module, n) for n in _functions(module)},
    )


def _execute(path: Path) -> types.ModuleType:
    name = f"_workload_{path.parent.name[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{path}: Python cannot load this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling in user code look the module up
    with translated(WorkloadError, f"{path.name} cannot be loaded", below=path.parent, mend=MEND):
        spec.loader.exec_module(module)
    return module


def _value(module: types.ModuleType, name: str, kinds: tuple[type, ...], default: Any) -> Any:
    value = getattr(module, name, default)
    if not isinstance(value, kinds) or isinstance(value, bool):
        spoken = " or ".join(kind.__name__ for kind in kinds)
        raise WorkloadError(
            f"{WORKLOAD_FILE}: `{name}` must be a {spoken}, not a {type(value).__name__}"
        )
    return value


def _shapes(path: Path, given: Any) -> Shapes:
    listed = given if isinstance(given, dict) else {"": given}
    for shape in listed.values():
        good = isinstance(shape, tuple | list) and all(isinstance(n, int) and n > 0 for n in shape)
        if not good or not (shape or isinstance(given, dict)):
            raise WorkloadError(
                f"{path}: `input_shape` is a tuple of positive integers, or a dict of such by "
                f"input's name, not {given!r}"
            )
    if not isinstance(given, dict):
        return tuple(given)
    if not given:
        raise WorkloadError(f"{path}: `input_shape` names no input")
    return {str(name): tuple(shape) for name, shape in given.items()}


def _detector(path: Path, module: types.ModuleType) -> Detector | None:
    given = _value(module, "operating_point", (dict,), {})
    if not given:
        return None
    labels = [str(label) for label in _value(module, "labels", (tuple, list), ())]
    positive, limit = given.get("positive"), given.get("false_positive_rate_max")
    number = labels.index(positive) if positive in labels else positive
    if type(number) is not int or number < 0 or (labels and number >= len(labels)):
        raise WorkloadError(
            f"{path}: `operating_point`: 'positive' is one of `labels` or a class number, "
            f"not {positive!r}"
        )
    if set(given) != {"positive", "false_positive_rate_max"} or not (
        isinstance(limit, float) and 0 < limit < 1
    ):
        raise WorkloadError(
            f"{path}: `operating_point` has the keys 'positive' and 'false_positive_rate_max', a "
            f"share between 0 and 1, not {given!r}"
        )
    return Detector(
        positive=number,
        name=labels[number] if labels else str(number),
        false_positive_rate_max=limit,
    )


def _functions(module: types.ModuleType) -> tuple[str, ...]:
    needed = ("source", "data", "metric")
    return (*needed, "slices") if hasattr(module, "slices") else needed


def _function(module: types.ModuleType, name: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        raise WorkloadError(f"{WORKLOAD_FILE}: `{name}` must be a function")
    return found  # type: ignore[no-any-return]


def _budget(path: Path, what: str, keys: Mapping[str, Any]) -> Budget:
    known = {f.name: f for f in fields(Budget)}
    for key, value in keys.items():
        if key not in known:
            raise WorkloadError(
                f"{path.name}: `{what}` has no key '{key}'; the keys are {', '.join(known)}"
            )
        if key == "prefer" and value is not None:
            _check_preference(path, what, value)
            continue
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise WorkloadError(f"{path.name}: `{what}`: '{key}' must be a number, not {value!r}")
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise WorkloadError(f"{path.name}: `{what}`: '{key}' must be ≥ 0, not {value}")
    sizes = {k: int(v) for k, v in keys.items() if k.endswith("_bytes_max") and v is not None}
    return Budget(**{**keys, **sizes})


def _check_preference(path: Path, what: str, value: object) -> None:
    if value not in PREFERENCES:
        raise WorkloadError(
            f"{path.name}: `{what}`: 'prefer' is one of {', '.join(PREFERENCES)}, not {value!r}"
        )
