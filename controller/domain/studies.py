"""Questions put to single devices, as frozen records: how fast a file is, what its kernels cost."""

from __future__ import annotations

from dataclasses import dataclass

from controller.domain.fleet import Cohort
from controller.domain.footprint import Footprint
from fitment.core.deployment import BundleRef, StudyKind
from fitment.core.kernels import KernelTable
from fitment.core.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMark:
    """What a device that stays behind is asked for at a wave, and what is known of before."""

    wave: int
    cluster: str  # it speaks for
    energy_before_mj: float | None = None  # of one inference of what runs, when it got it
    before: Footprint | None = None  # the rest of the same


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A question put to one device."""

    id: str
    kind: StudyKind
    device: str
    cohort: Cohort
    bundle: BundleRef
    created_at: float
    done_at: float = 0.0
    measurement: Measurement | None = None
    kernels: KernelTable | None = None
    failed: str = ""
    control: ControlMark | None = None  # it is asked as one of a rollout's control group
