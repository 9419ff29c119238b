"""What ``fitment rollout create`` can be told, an option each."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.completing import complete_devices, complete_groups, complete_releases

Release = Annotated[str, typer.Argument(autocompletion=complete_releases)]
Waves = Annotated[str, typer.Option(help="Rising shares of the devices.")]
Select = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE: a label, profile or name; repeatable.")
]
Where = Annotated[
    str, typer.Option(help="Only to those that match; see: fitment group create --help.")
]
Group = Annotated[
    str, typer.Option(help="Only to those of a group.", autocompletion=complete_groups)
]
Device = Annotated[
    list[str] | None,
    typer.Option(help="A device; repeatable.", autocompletion=complete_devices),
]
Soak = Annotated[str, typer.Option(help="Pause after each wave.")]
Deadline = Annotated[
    str, typer.Option(help="For each device; 1h, or 8d with --window.", show_default=False)
]
Window = Annotated[
    list[str] | None,
    typer.Option(
        help="When devices may switch, such as 'Mon-Fri 02:00 +2h Europe/Berlin': days, 'daily'"
        " or a date; the local time it opens; its length; the zone of devices that say none"
        " ('everywhere' behind it: of all devices). They download before. Repeatable."
    ),
]
Shadow = Annotated[
    str,
    typer.Option(
        help="How long it sees what a served slot is asked, unheard, before the switch; its"
        " answers are held against --agreement. With --ask, too few inputs roll it back."
    ),
]
ShadowInputs = Annotated[int, typer.Option(help="Inputs that it should see there.")]
Failures = Annotated[str, typer.Option(help="Share of devices that may fail.")]
Slower = Annotated[str, typer.Option(help="Times the own latency; 'any' asks nothing.")]
Agreement = Annotated[str, typer.Option(help="Least share of answers like fp32's.")]
Energy = Annotated[str, typer.Option(help="Times the energy of before.")]
Memory = Annotated[str, typer.Option(help="Times the peak memory of before.")]
Throttled = Annotated[str, typer.Option(help="Share that it throttles anew.")]
Coverage = Annotated[str, typer.Option(help="Least share of operators in integers.")]
FieldDrop = Annotated[str, typer.Option(help="Most that field accuracy may fall.")]
MustPass = Annotated[
    bool, typer.Option("--must-pass", help="Labels marked must_pass are never wrong.")
]
CoverageDrop = Annotated[str, typer.Option(help="Most below the one before.")]
AgreementDrop = Annotated[str, typer.Option(help="Most below the one before.")]
FalseHalts = Annotated[str, typer.Option(help="Chance to halt a good release.")]
MinSample = Annotated[int, typer.Option(help="Devices before a cohort is judged.")]
Cluster = Annotated[str, typer.Option(help="Label of devices that fail together.")]
Metered = Annotated[bool, typer.Option("--metered", help="Let it come over metered links, too.")]
Ask = Annotated[bool, typer.Option("--ask", help="Pause where too few can tell.")]
Control = Annotated[str, typer.Option(help="Share that stays on what it runs, to compare with.")]
ControlBy = Annotated[str, typer.Option(help="Label whose devices stay together.")]
ControlFor = Annotated[str, typer.Option(help="How long after the last wave.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say who would get what, and begin nothing.")
]
