"""Which program of the demo ended is said, also when that shows a moment late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from controller.demo.processes import Crew, Program


def with_program(folder: Path, code: str) -> Crew:
    log = folder / "agent.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out)
    program = Program(name="agent", process=process, log=log)
    return Crew(logs=folder, environment={}, programs={"agent": program})


def test_a_program_that_ends_a_moment_after_its_connection_did_is_named(tmp_path: Path) -> None:
    crew = with_program(tmp_path, "import time; time.sleep(0.3); print('no space left'); exit(3)")
    try:
        assert crew.ended(within_s=20.0) == "agent ended with 3: no space left"
    finally:
        crew.stop()


def test_programs_that_still_run_explain_nothing(tmp_path: Path) -> None:
    crew = with_program(tmp_path, "import time; time.sleep(60)")
    try:
        assert crew.ended(within_s=0.1) == ""
    finally:
        crew.stop()
