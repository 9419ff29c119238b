"""The workers as what they are: processes with a job file, a memory limit and a result file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.jobs import (
    JOBS,
    EnrollJob,
    EnrollResult,
    FetchJob,
    FetchResult,
    Limits,
    StageJob,
    StageResult,
    VerifyJob,
    VerifyResult,
    WorkerFailure,
)
from fitment.core import digest, plain
from tests.integration.trust_server import Controller

LIMITS = Limits(memory_bytes=256 * 1024 * 1024)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    running = Controller(tmp_path / "controller")
    yield running
    running.stop()


def run(job: Any, root: Path) -> Any:
    """Start the worker of a job; its result, or its failure when it exits with 1."""
    name, result = next((n, r) for n, (kind, r) in JOBS.items() if isinstance(job, kind))
    result_path = Path(job.result)
    job_path = result_path.with_suffix(".job")
    job_path.write_bytes(digest.canonical(job))
    command = [sys.executable, "-m", f"agent.workers.{name}", str(job_path)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    kind = WorkerFailure if done.returncode else result
    return plain.from_plain(kind, json.loads(result_path.read_bytes()))


def test_from_a_token_to_a_staged_bundle(
    controller: Controller, tmp_path: Path, root: Path
) -> None:
    keys, answer, part = tmp_path / "keys", str(tmp_path / "result"), str(tmp_path / "part")
    ref = controller.publish(bytes(range(256)) * 2000)
    order = controller.assignment(ref)
    enrolled = run(
        EnrollJob(
            result=answer,
            controller=controller.enroll_address,
            token=controller.token(),
            device="cam-1",
            keys=str(keys),
            limits=LIMITS,
        ),
        root,
    )
    assert isinstance(enrolled, EnrollResult), enrolled
    connection = controller.connection(keys)
    fetched = run(
        FetchJob(
            result=answer,
            connection=connection,
            archive=ref.archive,
            archive_bytes=ref.archive_bytes,
            target=part,
            limits=LIMITS,
        ),
        root,
    )
    assert isinstance(fetched, FetchResult), fetched
    verified = run(
        VerifyJob(
            result=answer,
            connection=connection,
            order=controller.trust.director.sign(order),
            kind="assignment",
            device="cam-1",
            archive_path=part,
            director_key=str(keys / "director.pub"),
            trusted_root=str(keys / "tuf_root.json"),
            metadata_dir=str(tmp_path / "metadata"),
            limits=LIMITS,
        ),
        root,
    )
    assert isinstance(verified, VerifyResult), verified
    staging = StageJob(
        result=answer,
        archive_path=part,
        folder=str(tmp_path / "slot"),
        variant=verified.variant,
        runtimes=("onnx",),
        limits=LIMITS,
    )
    staged = run(staging, root)
    assert isinstance(staged, StageResult), staged
    assert (staged.variant, staged.name) == (ref.variant, "int8")


def test_a_failure_is_a_result_too(controller: Controller, tmp_path: Path, root: Path) -> None:
    failed = run(
        EnrollJob(
            result=str(tmp_path / "result"),
            controller=controller.enroll_address,
            token="no token",
            device="",
            keys=str(tmp_path / "keys"),
        ),
        root,
    )
    assert isinstance(failed, WorkerFailure)
    assert (failed.code, failed.permanent) == ("token", True)
