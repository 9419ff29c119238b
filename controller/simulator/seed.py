"""A fleet that runs something, and an approved release of something else."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from controller.domain import fleet
from controller.errors import UserError
from controller.reconcile import releasing
from controller.simulator.device import SimDevice
from controller.simulator.fits import bundle, variant
from controller.simulator.physics import BOARDS, Board, Machine
from controller.simulator.traits import Scenario, Traits
from controller.store.base import Store
from fitment.core.deployment import DeviceGates, SlotReport
from fitment.core.fingerprint import Facet, Fingerprint

SLOT = "modelled"
MODEL = fleet.ModelVersion(
    id="model-modelled", name=SLOT, version="1", digest="sha256:modelled", snapshot="/none",
    registered_at=0.0, budget=fleet.Budget(accuracy_drop_max=0.01),
)  # fmt: skip
RUNNING, NEW = "fp32", "int8"
DEFAULT_MIX: Mapping[str, float] = {
    "raspberry-pi-5": 0.4, "android-snapdragon-8": 0.3, "jetson-orin-nano": 0.2, "rk3588": 0.1,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is simulated."""

    devices: int
    scenario: Scenario
    seed: int = 0
    mix: Mapping[str, float] | None = None


def check_mix(mix: Mapping[str, float]) -> None:
    """Refuse what no fleet could be drawn from.

    Raises:
        UserError: a profile is not modelled, or the shares are none.
    """
    unknown = sorted(set(mix) - set(BOARDS))
    if unknown:
        raise UserError(
            f"no board of profile '{unknown[0]}' is modelled; there are: {', '.join(BOARDS)}"
        )
    if not mix or any(not share >= 0 for share in mix.values()) or sum(mix.values()) <= 0:
        raise UserError("--profile-mix takes shares, for example raspberry-pi-5=0.7,rk3588=0.3")


def devices(wanted: Fleet) -> list[SimDevice]:
    """The devices of a fleet; each has its own source of chance, so that none disturbs another."""
    mix = wanted.mix or DEFAULT_MIX
    check_mix(mix)
    chance = random.Random(wanted.seed)
    prints = {name: _fingerprint(BOARDS[name]) for name in mix}
    found = []
    for number in range(wanted.devices):
        (profile,) = chance.choices(list(mix), list(mix.values()))
        own = random.Random(chance.getrandbits(64))
        device = SimDevice(
            name=f"sim-{number:05}", machine=Machine.drawn(BOARDS[profile], own),
            seen=prints[profile], traits=Traits.drawn(wanted.scenario, own),
            scenario=wanted.scenario, chance=own,
        )  # fmt: skip
        device.slots[SLOT] = SlotReport(
            slot=SLOT, variant=bundle(RUNNING).variant, name=RUNNING, release="factory", counter=1,
            golden_ok=True, serving=True,
        )  # fmt: skip
        found.append(device)
    return found


def _fingerprint(board: Board) -> Fingerprint:
    return Fingerprint(
        chassis=Facet.of({"board": "modelled"}), hardware=Facet.of(board.facts),
        stack=Facet.of({"runtime.onnx": "1.0"}), condition=Facet.of({"governor": "modelled"}),
        emulated=True,
    )  # fmt: skip


def fill(store: Store, members: list[SimDevice], now: float) -> fleet.Release:
    """Devices as if enrolled, and the release."""
    with store.transaction():
        for device in members:
            store.devices.add(fleet.Device(name=device.name, enrolled_at=now, serial="1"))
    return fill_release(store, now)


def fill_release(store: Store, now: float) -> fleet.Release:
    """Keep the release as if it had been fitted, chosen and approved."""
    cohort = fleet.Cohort(profile="generic-x86_64", hardware="sha256:0", stack="sha256:0")
    made = tuple(variant(name, MODEL.id) for name in (RUNNING, NEW))
    job = fleet.FitJob(
        id="job-modelled", model=MODEL.id, cohort=cohort, status=fleet.JobStatus.DONE,
        created_at=now, variants=made, fp32_accuracy=0.9,
    )  # fmt: skip
    release = fleet.Release(
        id="release-modelled", model=MODEL.id, slot=SLOT, counter=2, created_at=now,
        approved_at=now, variants=dict.fromkeys(BOARDS, bundle(NEW).variant),
        gates=dict.fromkeys(BOARDS, DeviceGates(latency_ratio_max=releasing.DEVICE_RATIO_MAX)),
    )  # fmt: skip
    with store.transaction():
        store.models.add(MODEL)
        store.jobs.add(job)
        store.releases.add(release)
    return release
