"""The tools that are compared, and how each is run: one process a tool, one file a point."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.compression.peers import envs
from tests.benchmarks.compression.subject import Subject

POST, TRAINING = "post-training", "training allowed"
SCRIPTS = Path(__file__).parent / "scripts"
LIMIT_S = 3600.0
OURS = "fitment"
BUDGETS = {POST: {"agreement_min": 0.98}, TRAINING: {"accuracy_drop_max": 0.03}}
"""What Fitment chooses by. Post-training it may look at no label, so agreement is asked; where
training is allowed the budget is the example's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool in one league; no environment: Fitment itself."""

    name: str
    league: str
    environment: str = ""
    script: str = ""


TOOLS = (
    Tool(name=OURS, league=POST),
    Tool(name="onnxruntime", league=POST, environment="ort", script="ort.py"),
    Tool(name="nncf", league=POST, environment="nncf", script="nncf_ptq.py"),
    Tool(name="aimet-onnx", league=POST, environment="aimet", script="aimet.py"),
    Tool(name="ai-edge-quantizer", league=POST, environment="litert", script="ai_edge.py"),
    Tool(name="olive", league=POST, environment="olive", script="olive_auto.py"),
    Tool(name=OURS, league=TRAINING),
    Tool(name="torch-pruning", league=TRAINING, environment="torch", script="torch_pruning_ft.py"),
    Tool(
        name="torch-pruning-litert",
        league=TRAINING,
        environment="litert",
        script="torch_pruning_litert.py",
    ),
    Tool(name="torchao", league=TRAINING, environment="torch", script="torchao_qat.py"),
)


def run(
    tool: Tool, subject: Subject, work: Path, say: Callable[[str], None], cpu_seconds: float | None
) -> dict[str, Any]:
    """What a tool made of a subject; taken from an earlier run where there is one.

    Gives its ``result.json`` with seconds, or ``unavailable`` and why.
    """
    out = work / "made" / subject.name / tool.league.replace(" ", "-") / tool.name
    finished = out / "finished.json"
    if finished.is_file():
        return dict(json.loads(finished.read_text()))
    out.mkdir(parents=True, exist_ok=True)
    say(f"{tool.league}: {tool.name} on {subject.name}")
    try:
        record = _run(tool, subject, work, out, cpu_seconds)
    except envs.Unavailable as error:
        if tool.name == OURS:
            raise
        record = {"unavailable": str(error)}
    finished.write_text(json.dumps(record, indent=2) + "\n")
    return record


def _run(
    tool: Tool, subject: Subject, work: Path, out: Path, cpu_seconds: float | None
) -> dict[str, Any]:
    job: dict[str, Any] = {"subject": str(subject.peer), "out": str(out), "seed": 0}
    if tool.name == OURS:
        command = [sys.executable, "-m", "tests.benchmarks.compression.peers.fitment"]
        post = tool.league == POST
        job |= {
            "workload": str(subject.onnx if post else subject.torch),
            "effort": "thorough" if post else "quick",
            "budget": BUDGETS[tool.league],
        }
    else:
        command = [str(envs.python(work, tool.environment)), str(SCRIPTS / tool.script)]
        job |= {"cpu_seconds": cpu_seconds}
    (out / "job.json").write_text(json.dumps(job, indent=2) + "\n")
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with (out / "log.txt").open("w") as log:
        code = subprocess.run(
            [*command, str(out / "job.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            env=envs.quiet_environment(),
            check=False,
        ).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not (out / "result.json").is_file():
        lines = (out / "log.txt").read_text().strip().splitlines()
        raise envs.Unavailable(f"ended with code {code}: {' | '.join(lines[-3:])}")
    record: dict[str, Any] = json.loads((out / "result.json").read_text())
    return {
        **record,
        "folder": str(out),
        "exit_code": code,
        "wall_s": time.perf_counter() - began,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
