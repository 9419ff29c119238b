"""Which int8 scheme to build: what the target's kernel table says, else a hint.

That U8S8 is fast on x86 with VNNI and S8S8 on Arm is a hint; which one is fast on a device and
its runtime is a fact that only the device knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fitment.core.kernels import KernelTable
from fitment.core.measurement import Verdict

STATIC = ("u8s8", "s8s8", "u8u8")
TIE = 0.05  # schemes closer than this share are equally fast; the hint orders them
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeChoice:
    """Static int8 schemes, most promising first, and why. Empty: the target allows none."""

    ranked: tuple[str, ...]
    reason: str


def rank_schemes(
    runtime: str, allowed: Iterable[str], tables: Iterable[KernelTable], *, machine: str
) -> SchemeChoice:
    """Rank the static schemes of one runtime that the target allows."""
    static = [scheme for scheme in allowed if scheme in STATIC]
    if not static:
        return SchemeChoice(ranked=(), reason=f"the target allows no static int8 on {runtime}")
    table = best_table(runtime, tables)
    speeds = dict(table.schemes_by_speed()) if table is not None else {}
    signed_first = runtime == "litert" or machine in _ARM
    hinted = ("s8s8", "u8s8", "u8u8") if signed_first else ("u8s8", "u8u8", "s8s8")
    timed = sorted((s for s in static if s in speeds), key=lambda s: speeds[s])
    tied = [s for s in timed if speeds[s] <= speeds[timed[0]] * (1.0 + TIE)]
    timed = sorted(tied, key=hinted.index) + timed[len(tied) :]
    if table is not None and timed:
        listed = ", ".join(f"{s} {speeds[s]:.2f}" for s in timed)
        note = "" if table.verdict is Verdict.VALID else f" (its verdict is {table.verdict.value})"
        return SchemeChoice(
            ranked=(*timed, *(s for s in static if s not in speeds)),
            reason=f"the kernel table of {runtime} {table.runtime_version}{note} gives times "
            f"relative to fp32: {listed}",
        )
    why = "LiteRT's kernels are signed" if runtime == "litert" else f"a hint for {machine} CPUs"
    return SchemeChoice(
        ranked=tuple(s for s in hinted if s in static),
        reason=f"no kernel table of {runtime}: {why}",
    )


def best_table(runtime: str, tables: Iterable[KernelTable]) -> KernelTable | None:
    """The table of a runtime to go by: a valid one before others, measured before emulated.

    What an emulator timed by translating instructions is none.
    """
    own = [t for t in tables if t.runtime == runtime and t.timings]
    own = [t for t in own if t.verdict is not Verdict.EMULATED]
    if not own:
        return None
    return min(own, key=lambda t: (t.verdict is not Verdict.VALID, t.emulated))
