"""When the certificate is renewed, and when the line says nothing of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.jobs import RenewResult, WorkerFailure
from tests.scenarios.agent_world import World


def test_a_line_that_comes_and_goes_renews_only_after_a_failure(tmp_path: Path) -> None:
    world = World(tmp_path)
    refused = WorkerFailure(code="unavailable", message="nobody is there")
    done = RenewResult(expires_unix=world.wall_unix + 1.0, now_unix=world.wall_unix)
    world.runner.script = {"renew": [lambda _job: refused, lambda _job: done]}
    certificate = world.folders.keys / "device.crt"
    certificate.parent.mkdir(parents=True)
    certificate.touch()
    world.identity = replace(world.identity, expires_unix=1.0)
    world.kill()
    world.boot()
    world.run(1.0)
    assert world.runner.names() == ["renew"]
    for _ in range(5):  # the first goes at once to what failed, the others find it done
        world.supervisor._renewal.line(up=True, now_s=world.clock.now_s)
        world.run(1.0)
    assert world.runner.names() == ["renew", "renew"]
