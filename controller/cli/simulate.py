"""``fitment simulate``: a rollout over a modelled fleet, before it goes to a real one."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.common import Json, print_facts, print_json
from controller.errors import UserError


def simulate(
    *,
    devices: Annotated[int, typer.Option(help="How many.")] = 200,
    scenario: Annotated[str, typer.Option(help="What befalls them; --scenario help lists.")] = (
        "good-release"
    ),
    profile_mix: Annotated[str, typer.Option(help="PROFILE=SHARE,… of modelled boards.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same fleet.")] = 0,
    as_json: Json = False,
) -> None:
    """Run one rollout over a modelled fleet with the controller's own loop."""
    from controller.simulator import world
    from controller.simulator.result import Result
    from controller.simulator.seed import Fleet, check_mix
    from controller.simulator.traits import SCENARIOS

    if scenario not in SCENARIOS:
        told = "; ".join(f"{row.name}: {row.says}" for row in SCENARIOS.values())
        raise UserError(f"no scenario '{scenario}'. There are: {told}")
    if devices < 1:
        raise UserError(f"--devices takes a number from 1 on, not {devices}")
    mix = _mix(profile_mix)
    if mix is not None:
        check_mix(mix)
    wanted = Fleet(devices=devices, scenario=SCENARIOS[scenario], seed=seed, mix=mix)
    result: Result = world.simulate(wanted)
    if as_json:
        print_json(result)
        return
    _show(result)


def _mix(text: str) -> dict[str, float] | None:
    try:
        pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
        return {name.strip(): float(share) for name, share in pairs} or None
    except ValueError as error:
        raise UserError(
            f"--profile-mix takes shares, for example raspberry-pi-5=0.7,rk3588=0.3; not '{text}'"
        ) from error


def _show(result: object) -> None:
    from controller.simulator.result import Result

    assert isinstance(result, Result)
    exposed = "-" if result.exposed_at_halt is None else str(result.exposed_at_halt)
    print_facts(
        {
            "scenario": f"{result.scenario}, seed {result.seed}: all of it modelled",
            "devices": str(result.devices),
            "rollout": f"{result.state} after {result.seconds:.0f} s of virtual time",
            "because": result.reason,
            "committed": f"{result.committed}, failed {result.failed}, open {result.still_open}",
            "exposed": f"{exposed} when it halted, at most {result.exposure_bound}",
            "triggers": str(result.triggers),
            "took": f"{result.wall_seconds:.1f} s",
        }
    )
