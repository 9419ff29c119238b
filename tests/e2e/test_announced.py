"""An announced stack, with real processes: tried out on a lab device, shipped, served at boot.

Its fits are done beforehand. The setting that changes breaks today's variant: its goldens see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.build import fingerprint_of
from agent.config import load
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.packing import bundle_ref, pack_into
from controller.domain import fleet
from controller.domain.stacks import StackState, Standing
from controller.store import open_store
from controller.testing import variant
from controller.trust import Trust
from fitment.core.deployment import SlotReport
from tests.e2e.processes import call, start, stop
from tests.e2e.seeded import PROFILE, SLOT, Fleet
from tests.integration.test_ladder import BROKEN, CHOSEN, EXACT, PORTABLE, serve
from tests.integration.test_serving_swaps import Load
from tests.integration.worker_models import Affine, affine_bundle

pytestmark = pytest.mark.e2e

TODAY = "[agent]\nfingerprint_interval_s = 1.0\n"
SETTINGS = {"edge-1": TODAY, "lab": TODAY + BROKEN}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Fleet]:
    """A model that was fitted for both stacks, and the two devices' settings."""
    data = tmp_path / "data"
    for name, text in SETTINGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(text)
    _seed(data, tmp_path)
    found = Fleet(tmp_path, data, FITMENT_OPTIMISE="true", FITMENT_LINK="grpc")
    yield found
    found.close()


def _seed(data: Path, work: Path) -> None:
    trust = Trust.create(data / "trust", data / "offline", ["127.0.0.1"])
    blobs = FolderBlobs(data / "blobs")
    with closing(open_store(f"sqlite:///{data / 'fitment.db'}", "default")) as store:
        store.models.add(fleet.ModelVersion(
            id="m", name=SLOT, version="1", digest="sha256:m", registered_at=1.0,
            snapshot=str(data / "models"), budget=fleet.Budget(agreement_min=0.0),
        ))  # fmt: skip
        for device, model, tolerance in (("edge-1", CHOSEN, EXACT), ("lab", PORTABLE, 1e-4)):
            fitted = _variant(work, blobs, trust, model, tolerance)
            store.jobs.add(_fit(work / device, fitted))


def _variant(
    work: Path, blobs: FolderBlobs, trust: Trust, model: Affine, tolerance: float
) -> fleet.Variant:
    folder = work / "bundles" / model.name
    affine_bundle(folder, model, tolerance=tolerance)
    ref = bundle_ref(pack_into(folder, blobs, work), model.name)
    trust.repository.add_bundles([(ref.target, blobs.path(ref.archive))])
    return replace(variant(model.name, 1.0, model="m"), bundle=ref, guard_agreement=0.0)


def _fit(edge: Path, fitted: fleet.Variant) -> fleet.FitJob:
    seen = fingerprint_of(load(edge, environment={}))
    cohort = fleet.Cohort(profile=PROFILE, hardware=seen.hardware.hash, stack=seen.stack.hash)
    return fleet.FitJob(
        id=f"fit-{edge.name}", model="m", cohort=cohort, status=fleet.JobStatus.DONE,
        created_at=1.0, finished_at=2.0, variants=(fitted,),
        choice=fleet.Choice(chosen=fitted.bundle.variant, reason="it is the only one"),
    )  # fmt: skip


def _run(made: Fleet, name: str) -> None:
    made.agents[name] = start(
        ["agent", "run", "--data-dir", str(made.folder / name)],
        made.folder / f"{name}.log", made.env,
    )  # fmt: skip


def _join(made: Fleet, name: str) -> None:
    token = made.client.create_token()
    call(
        made.env, "agent", "enroll", "--controller", token.enroll, "--token", token.text,
        "--device", name, "--data-dir", str(made.folder / name),
    )  # fmt: skip
    _run(made, name)
    made.wait(f"{name} is known", lambda: made.client.device(name).profile)


def _slot(made: Fleet) -> SlotReport:
    reported = made.client.device("edge-1").reported
    return reported.slots[0] if reported and reported.slots else SlotReport(slot="")


@contextmanager
def _asked(made: Fleet, root: Path) -> Iterator[Load]:
    """The device's server, asked without a pause."""
    process, address = serve(root, made.folder / "edge-1", SLOT)
    load_ = Load(address, callers=1, model=SLOT)
    try:
        yield load_
    finally:
        load_.end()
        process.terminate()
        process.communicate(timeout=30)


def test_a_stack_is_prepared_before_it_comes_and_served_from_the_boot_on(
    made: Fleet, root: Path
) -> None:
    made.start()
    _join(made, "edge-1")
    made.roll_out("m")
    today = _slot(made).variant
    assert _slot(made).name == CHOSEN.name
    _join(made, "lab")
    made.client.announce_stack("os-8", device="lab")
    made.wait("a fleet that is prepared", lambda: _standing(made, StackState.PREPARED))
    view = made.client.stack("os-8")
    assert [d.standing for d in view.devices] == [Standing.READY], view.devices
    coming = view.stack.parts[SLOT].chosen
    assert [(r.variant, r.ready) for r in _slot(made).ladder] == [(coming, True)]
    assert (_slot(made).variant, _slot(made).rung) == (today, 0)
    before = made.client.deployments()
    with _asked(made, root) as load_:
        _boot(made, load_, SETTINGS["lab"], coming, 1)
        made.wait("its arrival", lambda: _standing(made, StackState.ARRIVED))
        _boot(made, load_, SETTINGS["edge-1"], today, 0)
    assert load_.failures == []
    (came,) = [e for e in made.client.audit() if e.action == "stack_came"]
    assert (came.actor, came.details["slot"]) == ("device:edge-1", SLOT)
    assert "disabled_optimizers" in came.details["change"]
    assert made.client.triggers() == ()
    assert made.client.deployments() == before, "nothing was deployed or opened again"


def _standing(made: Fleet, state: StackState) -> bool:
    return made.client.stack("os-8").stack.state is state


def _boot(made: Fleet, load_: Load, settings: str, wanted: str, rung: int) -> None:
    """End the agent, change what is below it, and start it: what serves is asked all along."""
    stop(made.agents["edge-1"])
    config = made.folder / "edge-1" / "config.toml"
    kept = config.read_text().partition("[runtime]")[0]
    config.write_text(kept + settings.partition(TODAY)[2])
    load_.versions.clear()
    _run(made, "edge-1")
    made.wait("what is right serves", lambda: load_.versions[wanted])
    made.wait("its word", lambda: _slot(made).rung == rung and _slot(made).ladder[0].ready)
