"""Registering a workload: copy its files, validate the copy in a worker, keep the facts.

A workload is code. This process only parses it; it runs in the worker alone.
"""

from __future__ import annotations

import contextvars
import logging
import shutil
import time
from pathlib import Path

from controller import ids
from controller.catalog import snapshot
from controller.domain import fleet
from controller.errors import FitmentError, UserError
from controller.gateway.http.api import Api

log = logging.getLogger(__name__)


def register(api: Api, path: Path) -> fleet.ModelVersion:
    """Register the workload at ``path``, a file on this machine. Takes seconds to minutes.

    Raises:
        UserError: the path is not absolute.
        WorkloadError: the workload cannot be used.
        Conflict: this version is registered with other content.
    """
    if not path.is_absolute():
        raise UserError(f"'{path}' must be an absolute path on the controller's machine")
    from controller.catalog import inspect  # numpy comes with it: 0.1 s that a start need not pay

    controller = api.controller
    taken = snapshot.snapshot(path, api.data_dir / "models")
    same = api.engine.call(lambda: controller.store.models.find(digest=taken.digest)).result()
    if same:
        return same[0]
    now = time.time()
    model_id = ids.uuid7(now)
    folder = api.data_dir / "jobs" / f"inspect-{model_id}"
    try:
        facts = inspect.inspect(taken.folder, folder, report=_report)
    except (FitmentError, OSError):
        # Nobody will ask for this copy again. One that another registration uses at this very
        # moment is of the same content and fails as well.
        shutil.rmtree(taken.folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    model = fleet.ModelVersion(
        id=model_id,
        name=facts.name,
        version=facts.version,
        digest=taken.digest,
        snapshot=str(taken.folder.resolve()),
        registered_at=now,
        budget=facts.budget,
        profile_budgets=facts.profile_budgets,
        calibrate_profiles=facts.calibrate_profiles,
    )
    who = contextvars.copy_context()
    return api.engine.call(lambda: who.run(controller.register_model, model)).result()


def _report(step: str, fraction: float) -> None:
    log.info("action=inspecting step=%s fraction=%.2f", step.replace(" ", "_"), fraction)
