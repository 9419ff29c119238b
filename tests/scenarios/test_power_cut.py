"""The power goes around every change of the disk: old or new serves, and it ends and is told once.

`power_cut` does it, with real processes and SIGKILL, in a process of its own: forks of a test
run that has threads would hang. Here it is started, and its report is read.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MEMORY = Path("/dev/shm")
ELSEWHERE = {
    "agent/applications.py:close": "a socket, which no power loss outlives",
    "agent/applications.py:listen": "a socket, which no power loss outlives",
    "agent/build.py:_alone": "the data directory itself",
    "agent/cli.py:_enroll": "an enrolment, which is begun anew with a new token",
    "agent/journal.py:open_journal": "the data directory itself",
    "agent/journal.py:_end_outbox": "the copy, before it takes the place of the journal",
    "agent/journal.py:_go_back": "an agent that went back to an older version, once",
    "agent/journal.py:_keep_copy": "before a new version's first start; made anew when cut short",
    "agent/journal.py:_move": "tests/scenarios/test_agent_damage.py",
    "agent/peers.py:listener": "a socket, which no power loss outlives",
    "agent/serving.py:_sockets": "a folder for sockets, which no power loss outlives",
    "agent/serving.py:start": "sockets, which no power loss outlives",
    "agent/studies.py:_failed": "a study changes nothing that serves",
    "agent/studies.py:_make_job": "a study changes nothing that serves",
    "agent/studies.py:drop": "a study changes nothing that serves",
    "agent/workers/apply.py:done": "an enrolment: what is left asks the same authority again",
    "agent/workers/fetch.py:_check_digest": "after a damaged file, which is fetched once more",
    "agent/workers/fetch.py:_drop": "after a delta that will not do; then the file comes whole",
    "agent/workers/fetch.py:_from_mirror": "the part file that the gateway's bytes go to as well",
    "agent/workers/fetch.py:_receive": "a mark that mirrors lied; without it they are asked again",
    "agent/workers/fetch.py:_usable_bytes": "a part file that is too long",
    "agent/workers/keys.py:ensure_folder": "an enrolment, which is begun anew with a new token",
    "agent/workers/keys.py:write_private": "tests/integration/test_trust_enroll.py: cut there",
    "agent/workers/mirror.py:sync": "the part file that the gateway's bytes go to as well",
    "agent/workers/overlay.py:materialize": "written for an operator who waits for it",
    "agent/workers/serve.py:__init__": "a socket, which no power loss outlives",
    "agent/workers/serve.py:server_close": "a socket, which no power loss outlives",
    "agent/workers/serving/open_inference.py:__init__": "a socket, which no power loss outlives",
    "agent/workers/serving/open_inference.py:close": "a socket, which no power loss outlives",
}
"""Uses of the seam that no deployment comes to, and why that is enough."""


@pytest.fixture(scope="module")
def report(root: Path) -> Iterator[dict[str, Any]]:
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="fitment-power-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.scenarios.power_cut", folder],
            cwd=root, timeout=1500, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": f"{root}:{root / 'protos'}", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        yield json.loads((Path(folder) / "report.json").read_text())


@pytest.mark.parametrize(
    "scenario",
    ["install", "update", "judged-bad", "wrong-on-trial", "first-is-wrong", "staging-again",
     "in-its-window", "calibrating-again", "ladder-ready", "ladder-gone"],
)  # fmt: skip
def test_the_power_goes_around_every_step(report: dict[str, Any], scenario: str) -> None:
    found = report[scenario]
    runs, killed = found["runs"], found["killed"]
    print(f"{scenario}: {runs} cuts, {killed} by SIGKILL, in {found['seconds']:.0f} s")
    assert found["failures"] == []
    assert found["runs"] > 10


def test_every_use_of_the_seam_is_met_by_a_power_cut(report: dict[str, Any], root: Path) -> None:
    met = {caller for found in report.values() for caller in found["callers"]}
    uses = set(uses_of_the_seam(root))
    assert uses - met - set(ELSEWHERE) == set()
    assert set(ELSEWHERE) - (uses - met) == set(), "met, or gone"


def uses_of_the_seam(root: Path) -> Iterator[str]:
    """``file:function`` of everything that calls `agent.durable`."""
    for path in sorted((root / "agent").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and any(map(_asks, ast.walk(function))):
                yield f"{path.relative_to(root).as_posix()}:{function.name}"


IN_THE_JOURNAL = {
    "agent/actions.py:finish": "in the transaction of `Deployer._store`, which is cut",
    "agent/applications.py:_keep": "tests/unit/agent/applications: cut there",
    "agent/applications.py:_keep_missed": "who ended by then is waited for as long as it has time",
    "agent/build.py:restore_slots": "tests/scenarios/test_agent_damage.py: done anew at each start",
    "agent/deployer.py:give_way": "an order begins anew; what it had of its deadline goes with it",
    "agent/deployer.py:mend": "tests/scenarios/test_agent_damage.py",
    "agent/deployer.py:refuse": "an order that ends before it begins; else it is refused anew",
    "agent/deployer.py:stop": "an end in order; without the mark it counts as a death",
    "agent/orders.py:raise_floor": "verifying, which comes to it again, ends after it",
    "agent/outbox.py:acknowledge": "what was acknowledged is sent again, and counted once",
    "agent/studies.py:_give_up": "a study changes nothing that serves",
    "agent/submissions.py:_failed": "a count of tries",
}
"""Writers of the journal that no deployment comes to, and why that is enough."""


def test_every_writer_of_the_journal_is_met_by_a_power_cut(
    report: dict[str, Any], root: Path
) -> None:
    met = {caller for found in report.values() for caller in found["callers"]}
    uses = set(writers_of_the_journal(root))
    assert uses - met - set(IN_THE_JOURNAL) == set()
    assert set(IN_THE_JOURNAL) - (uses - met) == set(), "met, or gone"


def writers_of_the_journal(root: Path) -> Iterator[str]:
    """``file:function`` of everything outside it that makes the journal commit."""
    methods = _that_commit(ast.parse((root / "agent/journal.py").read_text()))
    for path in sorted((root / "agent").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                if any(isinstance(f, ast.Attribute) and f.attr in methods and _is_journal(f.value)
                       for f in calls):  # fmt: skip
                    yield f"{path.relative_to(root).as_posix()}:{function.name}"


def _that_commit(tree: ast.Module) -> set[str]:
    """Methods that open a transaction, by themselves or by another method."""
    (journal,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Journal")
    calls = {
        method.name: {node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)}
        for method in journal.body if isinstance(method, ast.FunctionDef)
    }  # fmt: skip
    found = {"transaction"}
    while more := {name for name, used in calls.items() if used & found} - found:
        found |= more
    return found


def _is_journal(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] in ("journal", "_journal")


def _asks(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "durable"
    )
