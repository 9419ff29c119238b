"""Whether the loaded model is fed and answers as an application expects.

An application may say what it expects, with any request, and is refused where that does not hold.
"""

from __future__ import annotations

from typing import Any

from agent.domain import expects as matching
from agent.workers.child import JobError
from agent.workers.installed import Loaded
from agent.workers.runtimes.base import Tensor
from fitment.core import digest, plain
from fitment.core.bundle import IoSpec


def describe(loaded: Loaded) -> dict[str, Any]:
    """What the socket takes and gives: real values, whatever type the file has inside.

    ``decision`` is when a detector should raise an alarm, see `fitment.core.bundle.DecisionSpec`;
    it differs from variant to variant, so an application reads it here and keeps none of its own.
    """
    spec = loaded.bundle.manifest.io or IoSpec(inputs=(), outputs=())
    session = loaded.session
    return {
        "inputs": [_tensor(item) for item in session.inputs],
        "outputs": [_tensor(item) for item in session.outputs],
        "layout": spec.layout,
        "labels": list(spec.labels),
        "preprocessing": dict(spec.preprocessing),
        "decision": plain.to_plain(loaded.bundle.manifest.decision),
    }


def require(expects: object, loaded: Loaded) -> None:
    """Hold what an application expects against what is loaded; None expects nothing.

    Raises:
        JobError: ``io_mismatch``, or ``invalid`` when it cannot be read.
    """
    if expects is None:
        return
    try:
        problems = matching.problems(expects, describe(loaded))
    except matching.Unreadable as error:
        raise JobError("invalid", str(error)) from error
    if problems:
        manifest = loaded.bundle.manifest
        raise JobError(
            "io_mismatch",
            f"variant {digest.short(loaded.bundle.variant)} ({manifest.model} {manifest.version}) "
            f"is not what the application expects: {'; '.join(problems)}; update the application, "
            "or roll out a release that it was written for",
            permanent=True,
        )


def _tensor(item: Tensor) -> dict[str, Any]:
    return {"name": item.name, "dtype": "float32", "shape": list(item.shape)}
