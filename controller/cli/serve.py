"""``fitment serve``: run a controller until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.common import Json, print_json
from controller.config import FILE_NAME, FILE_VARIABLE, LinkChoice, Settings, load
from controller.gateway.views import Addresses

_Port = Annotated[int | None, typer.Option(help="0 takes a free one.", show_default=False)]

_Days = Annotated[float | None, typer.Option(help="How long it is kept.", show_default=False)]
_Rows = Annotated[int | None, typer.Option(help="How much is kept at most.", show_default=False)]

_Config = Annotated[
    Path | None,
    typer.Option(envvar=FILE_VARIABLE, help=f"Settings; default: {FILE_NAME} where it is."),
]
_OfflineDir = Annotated[
    Path | None, typer.Option(help="Keys of root and targets, for approving releases.")
]
_PublicHost = Annotated[
    str | None, typer.Option(help="The name of this host that devices are told.")
]
_Dashboard = Annotated[
    bool | None, typer.Option("--dashboard/--no-dashboard", help="Web pages beside REST.")
]
_MqttUrl = Annotated[str | None, typer.Option(help="A broker that is not ours, mqtts://host:port.")]
_ArtifactUrls = Annotated[
    str | None, typer.Option(help="Mirrors of the blobs, https://…/{folder}/{hex}.")
]
_Optimise = Annotated[
    bool | None, typer.Option("--optimise/--no-optimise", help="Let triggers start fits.")
]
_AutoApprove = Annotated[
    bool | None,
    typer.Option("--auto-approve/--no-auto-approve", help="Releases need no operator."),
]
_ByApproval = Annotated[
    bool | None,
    typer.Option(
        "--enrolment-by-approval/--no-enrolment-by-approval",
        help="Let devices without a token ask for an operator's word.",
    ),
]
_Standby = Annotated[
    bool | None,
    typer.Option("--standby/--no-standby", help="Wait until no other controller acts here."),
]
_LeaseS = Annotated[float | None, typer.Option(help="Silent for this long, it may be replaced.")]


def serve(  # noqa: PLR0913 - one parameter an option
    *,
    config: _Config = None,
    data_dir: Annotated[Path | None, typer.Option(help="Everything that it keeps.")] = None,
    offline_dir: _OfflineDir = None,
    host: Annotated[str | None, typer.Option(help="Where devices connect.")] = None,
    public_host: _PublicHost = None,
    enroll_port: _Port = None,
    gateway_port: _Port = None,
    mqtt_port: _Port = None,
    rest_host: Annotated[str | None, typer.Option(help="Where operators connect.")] = None,
    rest_port: _Port = None,
    dashboard: _Dashboard = None,
    link: Annotated[LinkChoice | None, typer.Option(help="How small messages travel.")] = None,
    mqtt_url: _MqttUrl = None,
    artifact_urls: _ArtifactUrls = None,
    optimise: _Optimise = None,
    auto_approve: _AutoApprove = None,
    enrolment_by_approval: _ByApproval = None,
    standby: _Standby = None,
    lease_s: _LeaseS = None,
    fit_threads: Annotated[int | None, typer.Option(help="Processor threads of a fit.")] = None,
    telemetry_interval_s: Annotated[
        float | None, typer.Option(help="Seconds between two samples of a device.")
    ] = None,
    telemetry_raw_days: _Days = None,
    telemetry_raw_rows: _Rows = None,
    telemetry_hour_days: _Days = None,
    telemetry_day_days: _Days = None,
    telemetry_rollup_rows: _Rows = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every request.")] = False,
    as_json: Json = False,
) -> None:
    """Run a controller: enrolment, gateway, link, REST, and the loop behind them."""
    ours = {"config", "verbose", "as_json"}
    flags = {name: value for name, value in locals().items() if name not in {*ours, "ours"}}
    file = config or (Path(FILE_NAME) if Path(FILE_NAME).exists() else None)
    settings = load(file=file, environment=os.environ, flags=flags)
    _log(verbose=verbose)
    from controller.build import Server

    def ready(addresses: Addresses) -> None:
        if as_json:
            print_json(addresses)
        else:
            _show(settings, addresses)
        sys.stdout.flush()

    Server(settings).run(ready)


def _show(settings: Settings, addresses: Addresses) -> None:
    print(f"fitment {addresses.version} serves {settings.data_dir}")
    print(f"  operators  {addresses.rest}/v1   (token in {settings.data_dir}/operator.token)")
    if addresses.dashboard:
        print(f"  dashboard  {addresses.dashboard}   (log in with the same token)")
    print(f"  enrolment  {addresses.enroll}")
    print(f"  gateway    {addresses.gateway}")
    print(f"  link       {addresses.link} {addresses.mqtt}".rstrip())
    for note in addresses.notes:
        print(f"  note       {note}")
    print("Admit a device:")
    print(f"  fitment token create --data-dir {settings.data_dir}")
    print(f"  fitment-agent enroll --controller {addresses.enroll} --token fit1.…")


def _log(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for noisy in ("uvicorn", "httpx", "asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.WARNING)
