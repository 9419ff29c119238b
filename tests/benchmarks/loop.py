"""The loop: seconds from a change to the committed variant, and what the supervisors take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from controller.demo import story
from controller.demo.fleet import CHANGED, agent_config
from controller.demo.processes import DemoFailed
from controller.demo.report import StepTime
from controller.demo.stage import Stage
from controller.demo.steps import STEPS, Step
from controller.domain.triggers import COOL_DOWN_S


class Lines:
    """The demo's steps as lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    @contextlib.contextmanager
    def step(self, number: int, of: int, title: str) -> Iterator[Callable[[str], None]]:
        self._say(f"demo, {number} of {of}: {title}")
        yield lambda _text: None

    def done(self, step: StepTime) -> None:
        self._say(f"demo, {step.seconds:.1f} s: {step.result}")


def measure(out: Path, say: Callable[[str], None], link: str) -> dict[str, Any]:
    """Run the demo, and take its change back."""
    cached: dict[str, float] = {}

    def back(stage: Stage) -> str:
        cached["seconds"] = _change_back(stage)
        return f"{cached['seconds']:.1f} s to the variant of before, from the cache"

    step = Step(name="back", title="Take the change back", run=back)
    report = story.run(out / "demo", link, Lines(say), steps=(*STEPS, step))
    if report["failed"]:
        raise SystemExit(f"bench: {report['failed']}; logs are in {out / 'demo' / 'logs'}")
    memory = {d["name"]: d["supervisor_memory_bytes"] for d in report["devices"]}
    return {
        "link": report["link"],
        "demo_s": report["seconds"],
        "steps": {step["name"]: step["seconds"] for step in report["steps"]},
        "change_to_commit_s": report["change_to_commit_s"],
        "change_to_commit_cached_s": cached["seconds"],
        "supervisor_memory_bytes": memory,
    }


def _change_back(stage: Stage) -> float:
    """Seconds until the device runs what it ran before its change; nothing is fitted anew."""
    closed = stage.trigger.closed_at if stage.trigger else 0.0
    stage.wait("the end of the cool-down", lambda: time.time() > closed + COOL_DOWN_S)
    before = stage.deployments[CHANGED.name].variant
    began = time.monotonic()
    (stage.folders.device(CHANGED) / "config.toml").write_text(agent_config(CHANGED))

    def committed() -> bool:
        reported = stage.device(CHANGED).reported
        slots = reported.slots if reported is not None else ()
        return any(slot.variant == before and slot.golden_ok for slot in slots)

    stage.wait("the variant of before", committed)
    seconds = time.monotonic() - began
    newest = max(stage.api.triggers(), key=lambda t: t.created_at)
    if not stage.api.fit(newest.job).cached:
        raise DemoFailed("the answer was fitted anew, not taken from the cache")
    return seconds
