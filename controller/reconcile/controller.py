"""The controller's façade: everything that the gateway and the consoles may ask for.

All methods run on the engine's one thread. What happens behind them is in the modules of this
room; `tick` looks at the world and takes every step that is due.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.domain import fleet, pulled
from controller.domain.field import Slice
from controller.domain.judgement import Exposure, GateReport
from controller.domain.labels import Posted
from controller.domain.policy import Policy
from controller.domain.preview import Preview
from controller.domain.stacks import DeviceStanding, StackAnnouncement
from controller.domain.tickets import Ticket
from controller.errors import Conflict, NotFound, TrustError, UserError
from controller.reconcile import (
    announcing,
    applying,
    desired,
    drift,
    enrolment,
    fitting,
    ingest,
    keeping,
    labelling,
    levels,
    optimising,
    policies,
    previewing,
    pulling,
    qualifying,
    refuting,
    releasing,
    retrying,
    rolling,
    servicing,
    standing,
    strangers,
)
from controller.reconcile.announcing import Announced
from controller.reconcile.applying import Applied
from controller.reconcile.context import Context
from controller.reconcile.enrolment import Admission
from controller.reconcile.ingest import Heard
from controller.reconcile.looking import Looks
from controller.reconcile.rolling import RolloutPlan
from fitment.core.deployment import CalibrationReport
from fitment.core.kernels import KernelTable
from fitment.core.link import Downlink, Uplink
from fitment.core.measurement import Measurement

log = logging.getLogger("controller.reconcile")

_REFRESH_S = 3600.0
_AGAIN_S = 10.0
"""Until a device is looked at again whose change waits for a cool-down; it says what is new."""


class Controller:
    """One controller, on one store."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = context.store
        self._refreshed_at = 0.0
        # Devices that said something since the last tick, or are to be looked at again from then.
        self._look: dict[str, float] = {}
        self._looks = Looks.of(self.store)
        self._keeping = keeping.Round()
        self._levels = levels.Look()
        self._stacks = qualifying.Looked()
        self._resume()

    def _resume(self) -> None:
        """Nobody is known to be online, and every device is to be looked at."""
        with self.store.transaction():
            for device in self.store.devices.find():
                self._look[device.name] = 0.0
                if device.online:
                    ingest.offline(self.context, device.name)

    # devices

    def create_token(
        self, ttl_s: float = 3600.0, labels: Mapping[str, str] | None = None
    ) -> tuple[str, fleet.Token]:
        return enrolment.create_token(self.context, ttl_s, labels or {})

    def admit(self, token_text: str, wished_name: str, csr_pem: bytes) -> Admission:
        return enrolment.admit(self.context, token_text, wished_name, csr_pem)

    def apply(self, wished_name: str, csr_pem: bytes) -> Applied:
        return applying.apply(self.context, wished_name, csr_pem)

    def renew(self, device: str, csr_pem: bytes) -> bytes:
        return enrolment.renew(self.context, device, csr_pem)

    def recover(self, device: str, csr_pem: bytes, expired_pem: bytes, proof: bytes) -> bytes:
        return enrolment.recover(self.context, device, csr_pem, expired_pem, proof)

    def revoke(self, device: str) -> None:
        enrolment.revoke(self.context, device)

    def decommission(self, device: str) -> fleet.Device:
        return enrolment.decommission(self.context, device)

    def readmit(self, device: str) -> None:
        strangers.readmit(self.context, device)

    def strangers(self) -> tuple[str, ...]:
        return strangers.names(self.context)

    def is_allowed(self, device: str, serial: str) -> bool:
        return enrolment.is_allowed(self.context, device, serial)

    def on_link_up(self, device: str) -> None:
        """A device listens: it gets its desired state, whatever it saw before."""
        self.on_heard((Heard(device=device, up=True),))

    def on_link_down(self, device: str) -> None:
        self.on_heard((Heard(device=device, up=False),))

    def on_uplink(self, device: str, uplink: Uplink) -> tuple[Downlink, ...]:
        answers = self.on_heard((Heard(device=device, uplink=uplink),))
        return tuple(downlink for _, downlink in answers)

    def on_heard(self, heard: Sequence[Heard]) -> tuple[tuple[str, Downlink], ...]:
        """Take in whatever came over the link, of however many devices, at once.

        Returns:
            What to answer, and whom; desired states are published beside it.
        """
        taken = ingest.take_in(self.context, heard)
        said = {h.device for h in heard if h.uplink is not None and h.uplink.telemetry is None}
        self._look.update(dict.fromkeys(said, 0.0))
        desired.publish_to(self.context, sorted(taken.came | said), again=taken.came)
        return taken.answers

    def on_measurement(
        self,
        device: str,
        study: str,
        measurement: Measurement | None,
        kernels: KernelTable | None,
    ) -> None:
        ingest.on_measurement(self.context, device, study, measurement, kernels)

    def on_calibration(
        self, device: str, deployment: str, report: CalibrationReport, overlay: bytes
    ) -> None:
        ingest.on_calibration(self.context, device, deployment, report, overlay)

    # operators

    def register_model(self, model: fleet.ModelVersion) -> fleet.ModelVersion:
        """Keep a validated snapshot; the same content twice is one version."""
        same = self.store.models.find(digest=model.digest)
        if same:
            return same[0]
        taken = [m for m in self.store.models.find(name=model.name) if m.version == model.version]
        if taken:
            raise Conflict(
                f"{model.name} {model.version} is registered with other content;"
                " raise `version` in the workload"
            )
        with self.store.transaction():
            self.store.models.add(model)
            details = {"name": model.name, "version": model.version, "digest": model.digest}
            self.context.record("operator", "model_registered", model.id, details)
        return model

    def find_model(self, name_or_id: str) -> fleet.ModelVersion:
        """A model version by id, or the newest of a name.

        Raises:
            NotFound: there is none.
        """
        found = self.store.models.get(name_or_id)
        named = self.store.models.find(name=name_or_id)
        if found is None and not named:
            raise NotFound(
                f"no model '{name_or_id}' is registered; run: fitment model register {name_or_id}"
            )
        return found or named[-1]

    def start_fits(
        self, model_id: str, *, device: str = "", effort: str = "", rungs: tuple[str, ...] = ()
    ) -> tuple[fleet.FitJob, ...]:
        """A fit for each cohort of the fleet, or for one device's."""
        cohorts: dict[str, fleet.Cohort] = {}
        for found in self.store.devices.find(revoked=False):
            if found.cohort is not None and device in ("", found.name):
                cohorts[found.cohort.key] = found.cohort
        if not cohorts:
            if device and not self.store.devices.find(name=device):
                raise NotFound(f"no device is named '{device}'; see: fitment device list")
            who = f"'{device}' has" if device else "no device has"
            yet = " not reported a profile yet" if device else " reported a profile yet"
            raise UserError(
                f"{who}{yet}; enrol and run an agent first:"
                " fitment-agent enroll … && fitment-agent run"
            )
        return tuple(
            fitting.start(self.context, model_id, c, effort=effort, rungs=rungs)
            for c in cohorts.values()
        )

    def start_fit(
        self, model_id: str, cohort: fleet.Cohort, *, effort: str = "", trigger: str = ""
    ) -> fleet.FitJob:
        return fitting.start(self.context, model_id, cohort, effort=effort, trigger=trigger)

    def create_release(self, model_id: str, *, with_fallback: bool = False) -> fleet.Release:
        release = releasing.create(self.context, model_id, with_fallback=with_fallback)
        if self.context.settings.auto_approve:
            return self.approve_release(release.id, actor="controller")
        return release

    def pull(self, device: str, slot: str = "") -> pulled.RunningModel:
        return pulling.pull(self.context, device, slot)

    def approve_release(self, release_id: str, *, actor: str = "operator") -> fleet.Release:
        approved = releasing.approve(self.context, release_id, actor=actor)
        rolling.approved(self.context, release_id)
        return approved

    def create_rollout(self, release_id: str, plan: RolloutPlan) -> fleet.Rollout:
        return rolling.create(self.context, release_id, plan)

    def left(self, rollout_id: str) -> Mapping[str, str]:
        return rolling.left(self.context, rollout_id)

    def preview_rollout(self, release_id: str, plan: RolloutPlan) -> Preview:
        return previewing.of(self.context, release_id, plan)

    def retry(self, rollout_id: str, devices: Sequence[str] = ()) -> fleet.Rollout:
        return retrying.retry(self.context, rollout_id, devices)

    def judged(self, rollout_id: str) -> tuple[tuple[GateReport, ...], Exposure]:
        return rolling.judged(self.context, rollout_id)

    def control_of(self, made: fleet.Rollout) -> tuple[str, ...]:
        """Names of the devices that a rollout holds back now."""
        release = self.store.releases.get(made.release)
        return rolling.controls(self.context, made, release) if release is not None else ()

    def pause(self, rollout_id: str) -> fleet.Rollout:
        return rolling.pause(self.context, rollout_id)

    def resume(self, rollout_id: str) -> fleet.Rollout:
        return rolling.resume(self.context, rollout_id)

    def cancel(self, rollout_id: str) -> fleet.Rollout:
        return rolling.cancel(self.context, rollout_id)

    def revert(self, rollout_id: str) -> fleet.Rollout:
        return rolling.revert(self.context, rollout_id)

    def let_go(self, rollout_id: str) -> fleet.Rollout:
        return standing.let_go(self.context, rolling.get(self.context, rollout_id))

    def post_labels(self, device: str, lines: Sequence[Mapping[str, Any]]) -> Posted:
        posted = labelling.post(self.context, device, lines)
        for rollout in posted.fell:
            refuting.look(self.context, rollout)
        return posted

    def field_of(self, made: fleet.Rollout) -> tuple[Slice, ...]:
        return labelling.compared(self.store, made)

    def policy(self, model: str = "") -> Policy:
        return policies.of(self.context, model)

    def policy_said(self, model: str) -> str:
        return policies.said(self.context, model)

    def set_policy(self, model: str, text: str) -> Policy:
        return policies.say(self.context, model, text)

    def ticket(self, key: str) -> Ticket:
        return servicing.get(self.context, key)

    def acknowledge_ticket(self, key: str) -> Ticket:
        return servicing.acknowledge(self.context, key)

    def close_ticket(self, key: str, result: str) -> Ticket:
        return servicing.close(self.context, key, result)

    def close_trigger(self, key: str, reason: str) -> fleet.Trigger:
        return optimising.refuse(self.context, key, reason)

    def announce_stack(self, asked: Announced) -> StackAnnouncement:
        return announcing.announce(self.context, asked)

    def stack(self, key: str) -> StackAnnouncement:
        return announcing.get(self.context, key)

    def stack_standings(self, key: str) -> tuple[DeviceStanding, ...]:
        return announcing.standings(self.context, key)

    def withdraw_stack(self, key: str, reason: str) -> StackAnnouncement:
        return announcing.withdraw(self.context, key, reason)

    # the loop

    def tick(self) -> float:
        """Take every step that is due; returns seconds until it is worth looking again."""
        self._refresh()
        with self.store.transaction():
            again = self._look_at_devices()
        # Only now: what was rolled back has to be looked at once more.
        self._look = {name: due for name, due in (self._look | again).items() if due is not None}
        unfinished = fitting.advance(self.context)
        optimising.advance(self.context)
        qualifying.advance(self.context, self._stacks)
        rolling.advance(self.context, self._looks)
        desired.publish_all(self.context, self._looks)
        self._keeping = keeping.advance(self.context, self._keeping)
        levels.advance(self.context, self._levels)
        return 0.2 if unfinished else 0.5

    @property
    def is_looking(self) -> bool:
        """Whether a look at the fleet's levels has begun and is not over."""
        return self._levels.under_way

    def _look_at_devices(self) -> dict[str, float | None]:
        """Look at those that said something; gives when to look again, None for not at all."""
        again: dict[str, float | None] = {}
        now = self.context.clock()
        for name in sorted(name for name, due in self._look.items() if due <= now):
            waits = optimising.look(self.context, name)
            settles_at = drift.check_drift(self.context, name)
            again[name] = now + _AGAIN_S if waits else settles_at  # None: all is told
        return again

    def _refresh(self) -> None:
        """Renew the signed metadata that ends soon, once an hour."""
        now = self.context.clock()
        if now - self._refreshed_at < _REFRESH_S:
            return
        self._refreshed_at = now
        try:
            self.context.trust.repository.refresh()
        except TrustError as error:
            log.error("action=refresh_failed reason=%s", error)  # noqa: TRY400 - the text says it

    def close(self) -> None:
        """End the workers and the store."""
        self.context.fits.stop()
        self.store.close()


def work_folder(data_dir: Path) -> Path:
    """Where jobs are."""
    return data_dir / "jobs"
