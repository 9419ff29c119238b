"""A thin, typed REST client: what the command line, scripts and notebooks use.

    from controller.client import Client

    with Client.of("http://10.0.0.5:8080", "the operator's token") as client:
        made = client.create_rollout(release, waves=(0.1, 1.0))
        print(client.wait_rollout(made.rollout.id).rollout.state)

It needs none of the controller's libraries but two (``pip install 'fitment[client]'``). Methods
are one request, lists are read page by page, answers become the records that the controller keeps,
and problems the same errors that it raised. What can be asked again without harm (questions,
labels, and what carries an Idempotency-Key, as everything does that makes something but secrets,
which are answered once) is asked again, when the connection broke or the controller was busy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.calls import Calls, Unreachable
from controller.domain import fleet, pulled
from controller.domain.belonging import (
    Applicant,
    DeviceGroup,
    DeviceLine,
    GroupLine,
    Imported,
    Note,
)
from controller.domain.comparison import Comparison
from controller.domain.history import Event
from controller.domain.labels import Posted
from controller.domain.preview import Preview
from controller.domain.roles import Identity, Role
from controller.domain.stacks import StackAnnouncement
from controller.domain.tickets import Ticket
from controller.errors import UserError
from controller.gateway.views import (
    FACT_HEADER,
    FieldView,
    GroupView,
    NewOperator,
    NewToken,
    OperatorView,
    PolicyView,
    RolloutField,
    RolloutView,
    SeriesView,
    StackView,
    Status,
    TelemetryView,
)
from fitment.core import plain
from fitment.core.patch import InputCorrection

__all__ = ["Client", "Unreachable"]

REGISTER_TIMEOUT_S = 900.0
"""Registration loads the workload in a worker; the first import of its libraries is slow."""


class Client(Calls):
    """One controller, as an operator sees it."""

    def status(self) -> Status:
        return self._get(Status, "/v1/status")

    def devices(self, where: str = "", group: str = "") -> tuple[fleet.Device, ...]:
        """All of them, or those that an expression or a group takes."""
        return self._all(fleet.Device, "/v1/devices", where=where, group=group)

    def groups(self) -> tuple[DeviceGroup, ...]:
        return self._all(DeviceGroup, "/v1/groups")

    def group(self, name: str) -> GroupView:
        return self._get(GroupView, f"/v1/groups/{_part(name)}")

    def create_group(self, name: str, where: str) -> GroupView:
        return self._post(GroupView, "/v1/groups", name=name, where=where)

    def change_group(self, name: str, where: str) -> GroupView:
        return self._post(GroupView, f"/v1/groups/{_part(name)}", where=where)

    def delete_group(self, name: str) -> DeviceGroup:
        return self._ask(DeviceGroup, "DELETE", f"/v1/groups/{_part(name)}")

    def each_device(self) -> Iterator[fleet.Device]:
        """All devices, a page at a time."""
        return self._each(fleet.Device, "/v1/devices")

    def device(self, name: str) -> fleet.Device:
        return self._get(fleet.Device, f"/v1/devices/{_part(name)}")

    def revoke(self, name: str) -> fleet.Device:
        return self._post(fleet.Device, f"/v1/devices/{_part(name)}/revoke")

    def readmit(self, name: str) -> fleet.Device:
        """Put a device on record again that was enrolled after the backup."""
        return self._post(fleet.Device, f"/v1/devices/{_part(name)}/readmit")

    def decommission(self, name: str) -> fleet.Device:
        """Take a device out of service; its history stays, and its name is free."""
        return self._post(fleet.Device, f"/v1/devices/{_part(name)}/decommission")

    def applicants(self) -> tuple[Applicant, ...]:
        """Devices that ask to be let in, and those that were answered in the last day."""
        return self._all(Applicant, "/v1/applicants")

    def approve_applicant(
        self, name: str, code: str, labels: Mapping[str, str] | None = None
    ) -> Applicant:
        """Let in the device that shows ``code``."""
        path = f"/v1/applicants/{_part(name)}/approve"
        return self._post(Applicant, path, code=code, labels=dict(labels or {}))

    def reject_applicant(self, name: str) -> Applicant:
        return self._post(Applicant, f"/v1/applicants/{_part(name)}/reject")

    def history(self, name: str, limit: int = 200) -> tuple[Event, ...]:
        """The newest of what is on record of a device, newest first."""
        path = f"/v1/devices/{_part(name)}/history"
        return self._get(tuple[Event, ...], path, limit=str(limit))

    def note(self, name: str, text: str) -> Note:
        return self._post(Note, f"/v1/devices/{_part(name)}/notes", text=text)

    def notes(self, device: str = "") -> tuple[Note, ...]:
        return self._all(Note, "/v1/notes", device=device)

    def label(self, name: str, give: Mapping[str, str], take: Sequence[str] = ()) -> fleet.Device:
        """Give a device labels, and take those with these keys from it."""
        path = f"/v1/devices/{_part(name)}/labels"
        return self._post(fleet.Device, path, give=dict(give), take=list(take))

    def take_in(
        self,
        devices: Sequence[DeviceLine],
        groups: Sequence[GroupLine] = (),
        *,
        dry_run: bool = False,
    ) -> Imported:
        """Import labels, notes and groups."""
        return self._post(
            Imported, "/v1/import", devices=list(devices), groups=list(groups), dry_run=dry_run
        )

    def whoami(self) -> Identity:
        return self._get(Identity, "/v1/whoami")

    def operators(self) -> tuple[OperatorView, ...]:
        return self._all(OperatorView, "/v1/operators")

    def create_operator(self, name: str, role: Role, ttl_s: float = 0.0) -> NewOperator:
        """A token for an operator; ``ttl_s`` of 0: until it is revoked."""
        return self._post(NewOperator, "/v1/operators", name=name, role=role, ttl_s=ttl_s)

    def revoke_operator(self, name: str) -> OperatorView:
        return self._post(OperatorView, f"/v1/operators/{_part(name)}/revoke")

    def telemetry(
        self, name: str, column: str, limit: int = 20, since: float = 0.0
    ) -> TelemetryView:
        """The newest values; ``since`` is a moment in seconds since the epoch."""
        path = f"/v1/devices/{_part(name)}/telemetry"
        return self._get(TelemetryView, path, column=column, limit=str(limit), since=str(since))

    def series(
        self, column: str, period: str = "hour", *, since: float | None = None, **filters: str
    ) -> SeriesView:
        """Rollups; ``filters`` may be ``device``, ``profile``, ``variant``, ``release``, ``by``."""
        asked = {"column": column, "period": period, **filters}
        if since is not None:
            asked["since"] = str(since)
        return self._get(SeriesView, "/v1/telemetry", **asked)

    def export(
        self, path: Path | str, form: str = "", *, since: float | None = None,
        until: float | None = None, device: str = "", columns: Sequence[str] = (),
    ) -> int:  # fmt: skip
        """Write telemetry as it was sent to a file; gives its size in bytes.

        ``form`` is ``parquet``, ``csv`` or ``jsonl``; empty: what the file's name ends in. The file
        is there when it is whole, and not before.

        Raises:
            UserError: the format is none of these, or pyarrow is missing where the controller runs.
            Temporary: the connection broke before the end.
        """
        target = Path(path)
        asked = {"format": form or target.suffix.removeprefix("."), "device": device,
                 "columns": ",".join(columns), "since": since, "until": until}  # fmt: skip
        query = {key: str(value) for key, value in asked.items() if value not in ("", None)}
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file:
                for chunk in self._stream("/v1/telemetry/export", query):
                    file.write(chunk)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target.stat().st_size

    def post_labels(self, name: str, labels: Sequence[Mapping[str, Any]]) -> Posted:
        """Say of a device's answers what they should have been; again is no harm.

        Each label has ``time`` (when it was answered: seconds or ISO 8601) and one of ``label``
        (with ``predicted``), ``correct`` or ``correction``; and may have ``id``, ``release`` or
        ``variant`` (else what served then), ``slice`` and ``must_pass``. At most 2,000 at once.
        """
        return self._post(Posted, f"/v1/devices/{_part(name)}/field-labels", labels=list(labels))

    def field(self, by: str = "variant", **filters: str) -> FieldView:
        """Accuracy by labels; ``filters``: ``device``, ``release``, ``variant``, ``slice``."""
        return self._get(FieldView, "/v1/field", by=by, **filters)

    def rollout_field(self, key: str) -> RolloutField:
        """What labels and prediction mixes say of a rollout, beside its control group."""
        return self._get(RolloutField, f"/v1/rollouts/{_part(key)}/field")

    def pull(self, name: str, slot: str = "") -> pulled.RunningModel:
        """The model file that a slot of a device runs; ``slot`` may be empty where it has one."""
        query = {"slot": slot} if slot else {}
        answer = self._request("GET", f"/v1/devices/{_part(name)}/model", params=query)

        def fact(key: str) -> str:
            return str(answer.headers.get(f"{FACT_HEADER}{key}", ""))

        return pulled.RunningModel(
            device=name, slot=fact("slot"), variant=fact("variant"), data=answer.content,
            file_name=fact("file-name"), calibration=fact("calibration"),
            input=plain.from_plain(InputCorrection, json.loads(fact("input")))
            if fact("input") else None,
        )  # fmt: skip

    def create_token(
        self, ttl_s: float = 3600.0, labels: Mapping[str, str] | None = None
    ) -> NewToken:
        return self._post(NewToken, "/v1/tokens", ttl_s=ttl_s, labels=dict(labels or {}))

    def models(self) -> tuple[fleet.ModelVersion, ...]:
        return self._all(fleet.ModelVersion, "/v1/models")

    def model(self, key: str) -> fleet.ModelVersion:
        return self._get(fleet.ModelVersion, f"/v1/models/{_part(key)}")

    def register_model(self, path: str) -> fleet.ModelVersion:
        """Register the workload at an absolute path on the controller's machine."""
        return self._post(fleet.ModelVersion, "/v1/models", timeout_s=REGISTER_TIMEOUT_S, path=path)

    def approve_model(self, key: str) -> tuple[fleet.Release, ...]:
        return self._post(tuple[fleet.Release, ...], f"/v1/models/{_part(key)}/approve")

    def fits(self, model: str = "") -> tuple[fleet.FitJob, ...]:
        return self._all(fleet.FitJob, "/v1/fits", model=model)

    def fit(self, key: str) -> fleet.FitJob:
        return self._get(fleet.FitJob, f"/v1/fits/{_part(key)}")

    def start_fits(
        self, model: str, device: str = "", effort: str = "", rungs: Sequence[str] = ()
    ) -> tuple[fleet.FitJob, ...]:
        kind = tuple[fleet.FitJob, ...]
        return self._post(
            kind, "/v1/fits", model=model, device=device, effort=effort, rungs=list(rungs)
        )

    def compare(self, a: str, b: str, model: str = "") -> Comparison:
        """``b`` beside ``a`` on every device that measured them; each a name or a digest."""
        return self._get(Comparison, f"/v1/variants/{_part(b)}", against=a, model=model)

    def releases(self) -> tuple[fleet.Release, ...]:
        return self._all(fleet.Release, "/v1/releases")

    def release(self, key: str) -> fleet.Release:
        return self._get(fleet.Release, f"/v1/releases/{_part(key)}")

    def create_release(self, model: str, *, with_fallback: bool = False) -> fleet.Release:
        more = {"with_fallback": True} if with_fallback else {}
        return self._post(fleet.Release, "/v1/releases", model=model, **more)

    def approve_release(self, key: str) -> fleet.Release:
        return self._post(fleet.Release, f"/v1/releases/{_part(key)}/approve")

    def rollouts(self) -> tuple[fleet.Rollout, ...]:
        return self._all(fleet.Rollout, "/v1/rollouts")

    def rollout(self, key: str) -> RolloutView:
        return self._get(RolloutView, f"/v1/rollouts/{_part(key)}")

    def wait_rollout(
        self, key: str, *, timeout_s: float = 3600.0, every_s: float = 2.0,
        told: Callable[[RolloutView], None] | None = None,
    ) -> RolloutView:  # fmt: skip
        """Look until a rollout needs nobody's patience: it ended, halted, paused, or asks.

        A controller that is away meanwhile is waited for. ``told`` is called with every look.

        Raises:
            Temporary: it still goes on after ``timeout_s``.
        """
        return self._wait(lambda: self.rollout(key), _is_over, f"rollout {key}", timeout_s, every_s,
                          told)  # fmt: skip

    def wait_fit(
        self, key: str, *, timeout_s: float = 3600.0, every_s: float = 2.0,
        told: Callable[[fleet.FitJob], None] | None = None,
    ) -> fleet.FitJob:  # fmt: skip
        """Look until a fit is done, or has failed.

        Raises:
            Temporary: it still goes on after ``timeout_s``.
        """
        ends = (fleet.JobStatus.DONE, fleet.JobStatus.FAILED)
        return self._wait(lambda: self.fit(key), lambda job: job.status in ends, f"fit {key}",
                          timeout_s, every_s, told)  # fmt: skip

    def create_rollout(self, release: str, **plan: Any) -> RolloutView:
        """``plan`` holds the fields of `controller.reconcile.rolling.RolloutPlan`."""
        return self._post(RolloutView, "/v1/rollouts", release=release, **plan)

    def preview_rollout(self, release: str, **plan: Any) -> Preview:
        """What `create_rollout` would begin; nothing is kept."""
        return self._post(Preview, "/v1/rollouts/preview", release=release, **plan)

    def retry_rollout(self, key: str, devices: Sequence[str] = ()) -> RolloutView:
        """Another turn for devices that failed; without names for all of them."""
        return self._post(RolloutView, f"/v1/rollouts/{_part(key)}/retry", devices=list(devices))

    def change_rollout(self, key: str, act: str) -> RolloutView:
        """``act`` is ``pause``, ``resume``, ``cancel``, ``revert`` or ``let-go``."""
        return self._post(RolloutView, f"/v1/rollouts/{_part(key)}/{_part(act)}")

    def deployments(self, **filters: str) -> tuple[fleet.Deployment, ...]:
        """``filters`` may be ``rollout``, ``device``, ``release``, ``outcome``."""
        return self._all(fleet.Deployment, "/v1/deployments", **filters)

    def each_deployment(self, **filters: str) -> Iterator[fleet.Deployment]:
        """The same, a page at a time: a fleet has had many."""
        return self._each(fleet.Deployment, "/v1/deployments", **filters)

    def triggers(self) -> tuple[fleet.Trigger, ...]:
        return self._all(fleet.Trigger, "/v1/triggers")

    def close_trigger(self, key: str, reason: str) -> fleet.Trigger:
        """Refuse what it asks for; its rollout must not have begun."""
        return self._post(fleet.Trigger, f"/v1/triggers/{_part(key)}/close", reason=reason)

    def tickets(self, **filters: str) -> tuple[Ticket, ...]:
        """``filters`` may be ``device``, ``model``, and ``state`` (``open`` or ``all``)."""
        return self._all(Ticket, "/v1/tickets", **filters)

    def ticket(self, key: str) -> Ticket:
        return self._get(Ticket, f"/v1/tickets/{_part(key)}")

    def change_ticket(self, key: str, act: str, *, result: str = "") -> Ticket:
        """``act`` is ``acknowledge`` or ``close``; ``result`` says what was done about it."""
        route = f"/v1/tickets/{_part(key)}/{_part(act)}"
        body: dict[str, Any] = {"result": result} if result else {}
        return self._post(Ticket, route, **body)

    def stacks(self, **filters: str) -> tuple[StackAnnouncement, ...]:
        """``filters`` may be ``profile`` and ``state`` (``open`` or ``all``)."""
        return self._all(StackAnnouncement, "/v1/stacks", **filters)

    def stack(self, key: str) -> StackView:
        """One by name or id, with where each device stands."""
        return self._get(StackView, f"/v1/stacks/{_part(key)}")

    def announce_stack(self, name: str, **more: Any) -> StackView:
        """``more`` holds the other fields of `controller.reconcile.announcing.Announced`."""
        return self._post(StackView, "/v1/stacks", name=name, **more)

    def withdraw_stack(self, key: str, reason: str) -> StackView:
        return self._post(StackView, f"/v1/stacks/{_part(key)}/withdraw", reason=reason)

    def policies(self) -> tuple[PolicyView, ...]:
        return self._get(tuple[PolicyView, ...], "/v1/policies")

    def set_policy(self, policy: str, model: str = "") -> tuple[PolicyView, ...]:
        """``propose``, ``canary``, ``auto``; empty: as for all models."""
        kind = tuple[PolicyView, ...]
        return self._post(kind, "/v1/policies", policy=policy, model=model)

    def audit(self, limit: int = 200, **filters: str) -> tuple[fleet.AuditEntry, ...]:
        kind = tuple[fleet.AuditEntry, ...]
        return self._get(kind, "/v1/audit", limit=str(limit), **filters)


def _is_over(view: RolloutView) -> bool:
    """Whether nothing happens any more without an operator."""
    going = (fleet.RolloutState.RUNNING, fleet.RolloutState.REVERTING)
    return view.rollout.state not in going


def _part(text: str) -> str:
    """One segment of a path; a name may not reach another route."""
    if not text or "/" in text or text in {".", ".."} or "?" in text or "#" in text:
        raise UserError(f"'{text}' is no name or id")
    return text
