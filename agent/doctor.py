"""What is right and wrong with this device, for people. Reads, and changes nothing.

Works without a runtime, numpy, sensors, a network or a data directory.
"""

from __future__ import annotations

import enum
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import profiles
from agent.clock import EARLIEST_UNIX
from agent.domain.allowance import SPARSE_SHARE, size
from agent.hardware import BoardError, HardwareSettings, read_fingerprint
from agent.hardware.runtimes import PACKAGES, installed
from agent.jobs import RuntimeOptions
from agent.sensors import Unavailable, find_meter, snapshot
from agent.sysfs import Run, run_command
from fitment.core import digest
from fitment.core.deployment import AllowanceReport
from fitment.core.fingerprint import Fingerprint
from fitment.core.measurement import ReadingStatus

DISK_WARN_BYTES, DISK_FAIL_BYTES = 512 << 20, 64 << 20
"""Two slots, the transport file and a log fit easily above the first; nothing useful does below
the second."""


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"  # as it should be
    WARN = "warn"  # works, with less
    FAIL = "fail"  # the agent cannot do its work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    level: Level
    subject: str
    message: str
    mend: str = ""  # what to do, when it is not ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings; ``fingerprint`` is None only when it could not be read."""

    findings: tuple[Finding, ...]
    fingerprint: Fingerprint | None = None
    profile: str = ""

    @property
    def healthy(self) -> bool:
        """Nothing failed."""
        return all(finding.level is not Level.FAIL for finding in self.findings)


def diagnose(
    root: Path | str,
    settings: HardwareSettings,
    options: RuntimeOptions,
    data_dir: Path | str,
    *,
    run: Run = run_command,
    now: Callable[[], float] = time.time,
    allowance: AllowanceReport | None = None,
) -> Diagnosis:
    """Look at everything.

    Args:
        root: prefix of /proc and /sys.
        settings: hardware settings, as the agent runs with.
        options: runtime options, as the agent runs with.
        data_dir: the agent's data directory; it need not exist.
        run: starts vendor tools.
        now: seconds since the epoch.
        allowance: what is used of it; None: do not speak of it.
    """
    findings: list[Finding] = [_python()]
    fingerprint: Fingerprint | None = None
    profile = ""
    try:
        fingerprint = read_fingerprint(root=root, settings=settings, options=options, run=run)
    except BoardError as error:
        findings.append(_fail("fingerprint", str(error), "correct 'emulates' in config.toml"))
    if fingerprint is not None:
        findings.extend(_fingerprint(fingerprint))
        profile, about = _profile(fingerprint)
        findings.extend(about)
    findings.extend(_runtimes())
    findings.extend(_sensors(root, run))
    findings.append(_disk(Path(data_dir)))
    findings.append(_clock(now()))
    if allowance is not None:
        findings.extend(_allowance(allowance))
    return Diagnosis(findings=tuple(findings), fingerprint=fingerprint, profile=profile)


def render(diagnosis: Diagnosis) -> str:
    """The findings as text, one a line, with the mend below what is not ok."""
    width = max(len(finding.subject) for finding in diagnosis.findings)
    lines = []
    for finding in diagnosis.findings:
        lines.append(f"{finding.level.value:<4}  {finding.subject:<{width}}  {finding.message}")
        if finding.mend:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.mend}")
    counts = {level: sum(f.level is level for f in diagnosis.findings) for level in Level}
    lines.append(f"{counts[Level.FAIL]} failed, {counts[Level.WARN]} to note")
    return "\n".join(lines) + "\n"


def _python() -> Finding:
    return _ok("python", ".".join(str(part) for part in sys.version_info[:3]))


def _fingerprint(fingerprint: Fingerprint) -> Iterator[Finding]:
    for name in ("chassis", "hardware", "stack", "condition"):
        facet = getattr(fingerprint, name)
        shown = ("board", "machine", "cpu", "memory_class_mib", "emulated_on", "governor")
        facts = ", ".join(f"{key} {facet.facts[key]}" for key in shown if key in facet.facts)
        text = facts or (f"{len(facet.facts)} facts" if facet.facts else "no facts")
        yield _ok(name, f"{digest.short(facet.hash)}  {text}")
    if fingerprint.emulated:
        host = fingerprint.translated_on
        words = "this host stands in for a board: its timings are marked so"
        if host:
            words = f"instructions are translated (on {host}): timings count for nothing"
        yield _warn("emulation", words, "")


def _profile(fingerprint: Fingerprint) -> tuple[str, list[Finding]]:
    try:
        matched = profiles.match(fingerprint, profiles.all_profiles())
    except profiles.ProfileError as error:
        return "", [_warn("profile", str(error), "the controller needs a profile to fit a model")]
    findings = [_ok("profile", matched.reason)]
    unused = matched.profile.unused_accelerators()
    findings.extend(_ok("accelerator", sentence) for sentence in unused)
    facts = fingerprint.stack.facts
    for name in fingerprint.runtimes():
        support = matched.profile.runtime(name)
        version = facts.get(f"runtime.{name}", "")
        if support is None:
            mend = f"install one of: {', '.join(r.name for r in matched.profile.runtimes)}"
            findings.append(_warn(name, f"profile {matched.profile.name} does not use it", mend))
        elif not _accepts(support.versions, support.accepts, version):
            message = f"version {version} is outside {support.versions}"
            findings.append(_warn(name, message, "install a version in that range"))
    return matched.profile.name, findings


def _accepts(versions: str, accepts: Callable[[str], bool], version: str) -> bool:
    try:
        return accepts(version)
    except ValueError:  # a version that is no number fits only where any does
        return not versions


def _runtimes() -> Iterator[Finding]:
    found = installed()
    brought = [(runtime, package) for runtime, package in PACKAGES if package in found]
    for runtime, package in brought:
        yield _ok("runtime", f"{runtime}: {package.replace('_', '-')} {found[package]}")
    if not brought:
        mend = "pip install 'fitment[onnx]' or pip install 'fitment[litert]'"
        yield _warn("runtime", "no runtime installed: this device can run no model", mend)


def _sensors(root: Path | str, run: Run) -> Iterator[Finding]:
    now = snapshot(root, run)
    readings = (
        ("pressure", now.psi_avg10, "% of the last 10 s", "no /proc/pressure/cpu in this kernel"),
        ("clocks", now.freq_khz, "kHz", "no cpufreq (usual in virtual machines)"),
        ("temperature", now.temperature_c, "°C", "no readable thermal zone"),
    )
    for subject, value, unit, missing in readings:
        if value is None:
            yield _warn(subject, f"unavailable: {missing}", "")
        else:
            yield _ok(subject, f"{value:g} {unit}")
    meter = find_meter(root, run)
    if isinstance(meter, Unavailable):
        yield _warn("energy", f"unavailable: {meter.reason}", "")
        return
    kind = "estimated" if meter.status is ReadingStatus.ESTIMATED else "measured"
    yield _ok("energy", f"{kind} by {meter.method}, scope {meter.scope}")


def _disk(data_dir: Path) -> Finding:
    place = data_dir.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        mend = f"give the agent's user write access to {place}, or choose another data_dir"
        return _fail("disk", f"{place} is not writable", mend)
    stat = os.statvfs(place)
    free = stat.f_bavail * stat.f_frsize
    message = f"{free / (1 << 20):.0f} MiB free at {place}"
    if free < DISK_FAIL_BYTES:
        return _fail("disk", message, f"free at least {DISK_WARN_BYTES >> 20} MiB")
    if free < DISK_WARN_BYTES:
        return _warn("disk", message, f"free at least {DISK_WARN_BYTES >> 20} MiB")
    return _ok("disk", message)


def _clock(now_unix: float) -> Finding:
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_unix))
    if now_unix < EARLIEST_UNIX:
        return _warn(
            "clock",
            f"{text} is before this version was made",
            "set the clock or run an NTP client; until then the agent keeps its own floor of time",
        )
    return _ok("clock", text)


def _allowance(used: AllowanceReport) -> Iterator[Finding]:
    counts = (
        ("transfers", used.transferred_bytes, used.transfer_bytes_per_month, "this month"),
        ("writes", used.written_bytes, used.write_bytes_per_day, "today"),
    )
    for subject, count, cap, when in counts:
        message = f"{size(count)}{f' of {size(cap)}' if cap else ', no cap'} {when}"
        if cap and count >= SPARSE_SHARE * cap:
            mend = "samples thin out and what is larger than the rest waits; raise [allowance]"
            yield _warn(subject, message, mend)
        else:
            yield _ok(subject, message)
    if used.metered:
        mend = "bundles wait for another link, or for an order that asks for this one"
        yield _warn("link", f"metered: {used.metered_why}", mend)
    elif used.metered is None:
        mend = 'where that is wrong: [allowance] metered = "always"'
        yield _ok("link", f"taken as not metered: {used.metered_why}; {mend}")
    else:
        yield _ok("link", f"not metered: {used.metered_why}")


def _ok(subject: str, message: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, message=message)


def _warn(subject: str, message: str, mend: str) -> Finding:
    return Finding(level=Level.WARN, subject=subject, message=message, mend=mend)


def _fail(subject: str, message: str, mend: str) -> Finding:
    return Finding(level=Level.FAIL, subject=subject, message=message, mend=mend)
