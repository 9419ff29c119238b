"""Runs checks against one agent and says what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from controller.conformance import spec
from controller.conformance.case import Case, Setup
from controller.conformance.checks import CHECKS, UNCHECKED
from controller.conformance.spec import Check, Fails, NotRun, Report, Result, Verdict
from controller.errors import UserError

Tell = Callable[[Result], None]


def choose(only: Sequence[str]) -> tuple[Check, ...]:
    """Checks by id, or by the first part of it (``verify``); none given: all.

    Raises:
        UserError: one names no check.
    """
    wanted: list[Check] = []
    for name in only:
        found = [c for c in CHECKS if c.id == name or c.id.startswith(f"{name}-")]
        if not found:
            known = ", ".join(check.id for check in CHECKS)
            raise UserError(f"no check '{name}'. There are: {known}")
        wanted += found
    return tuple(check for check in CHECKS if check in wanted) if only else CHECKS


def run(setup: Setup, checks: Sequence[Check], tell: Tell = lambda _: None) -> Report:
    """Run ``checks`` in turn on one agent, in ``setup.folder``, which must be free."""
    if setup.folder.exists() and any(setup.folder.iterdir()):
        raise UserError(f"{setup.folder} is not empty: an agent that is checked begins anew")
    setup.folder.mkdir(parents=True, exist_ok=True)
    case = Case(setup)
    try:
        results = []
        for check in checks:
            results.append(_one(case, check))
            tell(results[-1])
        reports = case.records.reports()
        return Report(
            link=setup.link, runtime=case.runtime, results=tuple(results),
            agent_version=reports[-1].agent_version if reports else "", unchecked=UNCHECKED,
        )  # fmt: skip
    finally:
        case.close()


def _one(case: Case, check: Check) -> Result:
    began = time.monotonic()
    verdict, evidence = _look(case, check)
    case.settle()
    return Result(
        id=check.id, says=check.says, reference=f"{spec.REFERENCE}#{check.id}", verdict=verdict,
        evidence=evidence, seconds=round(time.monotonic() - began, 2),
    )  # fmt: skip


def _look(case: Case, check: Check) -> tuple[Verdict, str]:
    try:
        return Verdict.PASS, check.run(case)
    except Fails as broken:
        return Verdict.FAIL, str(broken)
    except NotRun as reason:
        return Verdict.NOT_RUN, str(reason)
