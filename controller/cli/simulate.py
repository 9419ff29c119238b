"""``fitment simulate``: a rollout over a modelled fleet, before it goes to a real one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.common import Json, print_facts, print_json, print_table
from controller.errors import UserError

MONTH = "month"
_LEAST_A_MONTH = 9

if TYPE_CHECKING:
    from controller.simulator.seed import Fleet


def simulate(  # noqa: PLR0913 - one parameter an option
    *,
    devices: Annotated[int, typer.Option(help="How many.")] = 200,
    scenario: Annotated[str, typer.Option(help="What befalls them; --scenario help lists.")] = (
        "good-release"
    ),
    profile_mix: Annotated[str, typer.Option(help="PROFILE=SHARE,… of modelled boards.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same fleet.")] = 0,
    wire: Annotated[
        bool, typer.Option("--wire", help="In real time: a controller's process, mosquitto, TLS.")
    ] = False,
    telemetry_interval: Annotated[
        float, typer.Option(help="With --wire: seconds between two samples of a device.")
    ] = 10.0,
    pace: Annotated[
        float, typer.Option(help="With --wire: modelled seconds of hardware in one of ours.")
    ] = 1.0,
    connect_rate: Annotated[
        float, typer.Option(help="With --wire: devices switched on in a second.")
    ] = 200.0,
    settle: Annotated[
        float, typer.Option(help="With --wire: seconds of telemetry alone, before the rollout.")
    ] = 20.0,
    plot: Annotated[
        Path | None, typer.Option(help="With month: an SVG of regret and refits by day.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run one rollout over a modelled fleet with the controller's own loop.

    In virtual time on the controller's store in memory; with --wire in real time, against a
    controller and a mosquitto of their own, which end with it.
    """
    from controller.simulator import world
    from controller.simulator.seed import Fleet, check_mix
    from controller.simulator.traits import SCENARIOS

    if scenario == MONTH:
        _month(devices, seed, plot, as_json=as_json)
        return
    if scenario not in SCENARIOS:
        raise _unknown(scenario, [f"{row.name}: {row.says}" for row in SCENARIOS.values()])
    if devices < 1:
        raise UserError(f"--devices takes a number from 1 on, not {devices}")
    mix = _mix(profile_mix)
    if mix is not None:
        check_mix(mix)
    wanted = Fleet(devices=devices, scenario=SCENARIOS[scenario], seed=seed, mix=mix)
    if wire:
        numbers = {
            "--telemetry-interval": telemetry_interval, "--pace": pace,
            "--connect-rate": connect_rate, "--settle": settle,
        }  # fmt: skip
        _on_the_wire(wanted, numbers, as_json=as_json)
        return
    result = world.simulate(wanted)
    if as_json:
        print_json(result)
        return
    _show(result)


def _unknown(scenario: str, known: list[str]) -> UserError:
    month = f"{MONTH}: thirty days of weather, drivers and dust, and three policies"
    return UserError(f"no scenario '{scenario}'. There are: {'; '.join([*known, month])}")


def _month(devices: int, seed: int, plot: Path | None, *, as_json: bool) -> None:
    """The loop, never fitting again, and fitting at every report: a row each."""
    from controller.simulator import month, month_plot

    if devices < _LEAST_A_MONTH:
        raise UserError(
            f"--scenario {MONTH} needs --devices {_LEAST_A_MONTH} or more: three classes, and who"
            " is alone is told by at least two others"
        )

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    results = [month.simulate(devices, seed, policy, say) for policy in month.Policy]
    if plot is not None:
        plot.write_text(month_plot.picture(results))
    if as_json:
        print_json(results)
        return
    rows = [
        (
            r.policy, f"{r.regret:.0f}", f"{r.regret_of_ill:.0f}", str(r.over_hours),
            str(r.refits), str(r.studies), str(r.updates), ", ".join(r.tickets) or "-",
            "yes" if r.settled else "no",
        )
        for r in results
    ]  # fmt: skip
    columns = (
        "policy", "regret", "of the ill", "hours over budget", "refits", "studies", "updates",
        "tickets", "settled",
    )  # fmt: skip
    print_table(columns, rows, empty="")
    print("All of it is modelled. Regret: points of accuracy times device-hours.")


def _on_the_wire(wanted: Fleet, numbers: dict[str, float], *, as_json: bool) -> None:
    from controller.cli.simulate_wire import Shown, show
    from controller.simulator import wire

    for name, value in numbers.items():
        if not value > 0:
            raise UserError(f"{name} takes a number above 0, not {value:g}")
    driven = wire.Wire(
        telemetry_interval_s=numbers["--telemetry-interval"], pace=numbers["--pace"],
        switched_on_per_s=numbers["--connect-rate"], settle_s=numbers["--settle"],
    )  # fmt: skip
    with Shown() as shown:
        result = wire.simulate(wanted, driven, shown)
    if as_json:
        print_json(result)
    else:
        show(result)


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
