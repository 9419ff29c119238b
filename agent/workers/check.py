"""Check: does the model still answer as it should on this stack, and does it run in integers?"""

from __future__ import annotations

from agent.jobs import CheckJob, CheckResult
from agent.workers import child, goldens, installed, memory_room


def handle(job: CheckJob) -> CheckResult:
    """Answer the golden inputs of ``job.folder``.

    Damaged files are found before anything is loaded from them. A wrong answer is a result, not a
    failure of the job. What is for another stack only has its files compared. With an overlay the
    pristine file answers and the patched one is loaded and must give finite values (see `goldens`).
    """
    bundle = installed.read(job.folder)
    installed.verify(bundle, job.variant)
    if job.files_only:
        return CheckResult(
            golden_ok=True, worst_error=0.0, agreement=None, sqnr_db=None, integer_coverage=None,
            runtime="",
        )  # fmt: skip
    if job.first:
        needs = memory_room.needed_bytes(bundle.artifact.stat().st_size)
        memory_room.require(needs, memory_room.read(), limit_bytes=job.limits.memory_bytes)
    known = installed.goldens(bundle)
    loaded = installed.load(bundle, job.setting.options, overlay=job.overlay)
    answer = goldens.evaluate_pristine(loaded, known, job.setting.options)
    return CheckResult(
        golden_ok=answer.golden_ok,
        worst_error=answer.worst_error,
        agreement=answer.agreement,
        sqnr_db=answer.sqnr_db,
        integer_coverage=loaded.session.integer_coverage(),
        runtime=loaded.runtime,
        reason=answer.reason,
    )


if __name__ == "__main__":
    raise SystemExit(child.run("check", handle))
