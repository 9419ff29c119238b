"""One record of every kind that a store keeps."""

from __future__ import annotations

from controller.domain import fleet, studies
from controller.domain.belonging import Applicant, DeviceGroup, Note
from controller.domain.labels import FieldTally, LabelPage, Line
from controller.domain.roles import Operator, Role
from controller.domain.stacks import StackAnnouncement, StackPart, StackState
from controller.domain.tickets import Ticket
from fitment.core.deployment import BundleRef, DeploymentState, StudyKind
from fitment.core.fingerprint import Facet, Fingerprint

COHORT = fleet.Cohort(profile="p", hardware="sha256:h", stack="sha256:s")
BUNDLE = BundleRef(
    variant="sha256:v", name="fp32", archive="sha256:a", archive_bytes=1, target="bundles/x.tar.xz"
)
FACET = Facet.of({"cpu": "a76"})
SEEN = Fingerprint(chassis=FACET, hardware=FACET, stack=FACET, condition=FACET)
DEVICE = fleet.Device(name="k", profile="pi5", labels={"site": "north"}, serials=("1", "2"))
DEPLOYMENT = fleet.Deployment(
    id="k", rollout="r", release="r", device="d", slot="s", variant="v", wave=0, created_at=1.0,
    state=DeploymentState.FETCHING, cohort=COHORT, fingerprint=SEEN,
)  # fmt: skip
STUDY = studies.StudyRecord(
    id="k", kind=StudyKind.PROBE, device="d", cohort=COHORT, bundle=BUNDLE, created_at=1.0
)
RECORDS = {
    "devices": DEVICE,
    "tokens": fleet.Token(hash="k", created_at=1.0, expires_at=2.0),
    "operators": Operator(
        name="k", role=Role.VIEWER, hash="sha256:h", created_at=1.0, expires_at=2.0
    ),
    "models": fleet.ModelVersion(
        id="k", name="m", version="1", digest="d", snapshot="/s", registered_at=1.0,
        budget=fleet.Budget(accuracy_drop_max=0.01), profile_budgets={"pi5": fleet.Budget()},
    ),
    "jobs": fleet.FitJob(
        id="k", model="m", cohort=COHORT, status=fleet.JobStatus.PROBING, created_at=1.0,
        choice=fleet.Choice(chosen="v", reason="fast", rejected={"w": "slow"}),
    ),
    "studies": STUDY,
    "releases": fleet.Release(id="k", model="m", slot="s", counter=3, created_at=1.0),
    "rollouts": fleet.Rollout(
        id="k", release="r", state=fleet.RolloutState.RUNNING, created_at=1.0
    ),
    "deployments": DEPLOYMENT,
    "triggers": fleet.Trigger(
        id="k", kind=fleet.TriggerKind.STACK_CHANGED, device="d", model="m", cohort=COHORT,
        reason="r", created_at=1.0,
    ),
    "tickets": Ticket(
        id="k", device="d", model="m", slot="s", variant="v", cohort=COHORT, opened_at=1.0
    ),
    "stacks": StackAnnouncement(
        id="k", name="n", profile="p", created_at=1.0, device="d", state=StackState.FITTING,
        parts={"s": StackPart(model="m", job="j", coverage=0.5)}, arrived={"d/s": 2.0},
    ),
    "audit": fleet.AuditEntry(
        id="k", at=1.0, actor="controller", action="a", subject="s", details={"n": "1"}
    ),
    "answers": fleet.Answer(key="k", request="sha", at=1.0, body="{}"),
    "pages": LabelPage(
        key="k", device="d", start_s=3600,
        lines={"1": Line(id="1", at=3601.0, release="r", right=False, must_pass=True)},
    ),
    "tallies": FieldTally(key="k", device="d", release="r", variant="v", start_s=3600, count=1),
    "groups": DeviceGroup(name="k", where="online", created_at=1.0),
    "notes": Note(id="k", device="d", at=1.0, author="operator:ann", text="t"),
    "applicants": Applicant(name="k", key_hash="sha256:k", code="A-B", asked_at=1.0, seen_at=1.0),
}  # fmt: skip
