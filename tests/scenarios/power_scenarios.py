"""What the power is cut around: what is wished of a device, and how that must end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fitment.core.deployment import (
    Assignment,
    CalibrationMode,
    CalibrationPlan,
    DeviceGates,
    Lesser,
    Pressure,
    Span,
)

from .power_device import Centre, Device


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is wished of a device, and how that must end."""

    name: str
    order: Assignment
    outcome: str
    serves: str  # variant in the end
    before: str  # variant that serves until then, or empty
    wrong_on_trial: bool = False
    begins: str = ""  # pattern of the step of an earlier scenario at which the power went before
    since: str = ""  # up to this step another scenario makes the same ones
    until: str = ""  # and from this one on
    hot: bool = False  # so that a lesser variant serves as soon as there is one
    rung: int = 0  # that serves in the end
    on: str = ""  # it begins where this scenario ends


def scenarios(centre: Centre) -> list[Scenario]:
    """First install, update, and two updates that do not hold."""
    first = centre.order("v1", counter=1)
    plan = CalibrationPlan(mode=CalibrationMode.MOMENTS, min_samples=8)
    second = centre.order("v2", counter=2, calibration=plan)
    slow = centre.order("v2", counter=3, gates=DeviceGates(latency_ratio_max=0.1))
    wrong = centre.order("v2", counter=4)
    rung = Lesser(bundle=first.bundle, relieves=(Pressure.HEAT,))
    laddered = centre.order("v2", counter=5, ladder=(rung,))
    plain = centre.order("v1", counter=6)
    opens = int(Device.wall_unix) + 90  # every boot begins at the same moment, and waits
    night = replace(second, windows=(Span(opens_unix=opens, closes_unix=opens + 3600),))
    v1, v2 = centre.variants["v1"], centre.variants["v2"]
    return [
        Scenario(name="install", order=first, outcome="committed", serves=v1, before=""),
        Scenario(name="update", order=second, outcome="committed", serves=v2, before=v1),
        Scenario(name="judged-bad", order=slow, outcome="rolled_back", serves=v1, before=v1,
                 since="-benchmark.json"),
        Scenario(name="wrong-on-trial", order=wrong, outcome="rolled_back", serves=v1,
                 before=v1, wrong_on_trial=True, since="symlink"),
        Scenario(name="first-is-wrong", order=first, outcome="rolled_back", serves="", before="",
                 wrong_on_trial=True, since="symlink"),
        Scenario(name="staging-again", order=second, outcome="committed", serves=v2, before=v1,
                 begins="rename .*-stage.result.json", until="-calibrate.json"),
        Scenario(name="in-its-window", order=night, outcome="committed", serves=v2, before=v1,
                 since="-5-check.json", until="-calibrate.json"),
        Scenario(name="calibrating-again", order=second, outcome="committed", serves=v2, before=v1,
                 begins="rename slots/digits/b/overlay.json", until="-benchmark.json"),
        Scenario(name="ladder-ready", order=laddered, outcome="committed", serves=v2, before=v1,
                 hot=True, rung=1, since="symlink slots/digits~1/.active.new"),
        Scenario(name="ladder-gone", order=plain, outcome="committed", serves=v1, before=v2,
                 hot=True, on="ladder-ready", since="rename slots/digits/facts.json"),
    ]  # fmt: skip
