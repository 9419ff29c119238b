"""``fitment model``: registered workloads."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli.common import (
    DEFAULT_DATA_DIR,
    DataDir,
    Json,
    Server,
    connect,
    print_facts,
    print_json,
    print_table,
    when,
)
from controller.cli.fit import find
from controller.domain import fleet
from fitment.core import digest, plain

app = typer.Typer(no_args_is_help=True, help="Registered models.")


@app.command("register")
def register_model(
    workload: str,
    *,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Register WORKLOAD, a file on the controller's machine or the name of an example."""
    path = find(workload).resolve()
    with connect(server, data_dir) as client:
        model = client.register_model(str(path))
    if as_json:
        print_json(model)
        return
    print(f"{model.name} {model.version} is registered ({digest.short(model.digest)}).")
    print(f"Fit it to the fleet: fitment fit {model.name}")


@app.command("list")
def list_models(
    *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """All model versions."""
    with connect(server, data_dir) as client:
        found = client.models()
    if as_json:
        print_json(found)
        return
    rows = [
        (model.name, model.version, _accuracy(model), when(model.registered_at), model.id)
        for model in found
    ]
    columns = ("model", "version", "fp32 accuracy", "registered", "id")
    print_table(columns, rows, empty="No model is registered; run: fitment model register WORKLOAD")


@app.command("show")
def show_model(
    model: str, *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """One model version, by id or the newest of a name."""
    with connect(server, data_dir) as client:
        found = client.model(model)
    if as_json:
        print_json(found)
        return
    limits = {
        key: value for key, value in plain.to_plain(found.budget).items() if value is not None
    }
    print_facts(
        {
            "model": f"{found.name} {found.version}",
            "id": found.id,
            "digest": found.digest,
            "snapshot": found.snapshot,
            "registered": when(found.registered_at),
            "fp32 accuracy": _accuracy(found),
            "budget": ", ".join(_limit(*pair) for pair in limits.items()) or "none",
        }
    )


@app.command("policy")
def model_policy(
    model: Annotated[str, typer.Argument(help="A name; none: all models.")] = "",
    policy: Annotated[
        str,
        typer.Argument(help="propose, canary or auto; 'default': as all models. None: show it."),
    ] = "",
    *,
    fleet_wide: Annotated[
        bool, typer.Option("--all", help="Of all models that have none of their own.")
    ] = False,
    server: Server = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """How far the loop goes by itself when something asks for another fit of MODEL.

    propose: it fits and makes a release, an operator approves it. canary: it approves and updates
    one device, an operator lets the rest follow. auto: all of it, canary first.
    With --all the policy stands in MODEL's place: fitment model policy --all canary.
    """
    name, said = ("", policy or model) if fleet_wide else (model, policy)
    with connect(server, data_dir) as client:
        if said:
            found = client.set_policy("" if said == "default" else said, name)
        else:
            found = client.policies()
    if as_json:
        print_json(found)
        return
    rows = [(p.model or "all models", p.policy.value, p.own or "-") for p in found]
    wanted = [r for r in rows if not name or r[0] in (name, "all models")]
    print_table(("model", "policy", "said for it"), wanted, empty="")


@app.command("approve")
def approve_model(
    model: str, *, server: Server = "", data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False
) -> None:
    """Sign every release of the model that waits, with the offline keys."""
    with connect(server, data_dir) as client:
        releases = client.approve_model(model)
    if as_json:
        print_json(releases)
        return
    for release in releases:
        print(f"Release {release.id} of {release.slot} is approved (counter {release.counter}).")


def _limit(name: str, value: float | str) -> str:
    return f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"


def _accuracy(model: fleet.ModelVersion) -> str:
    return "-" if model.fp32_accuracy is None else f"{100 * model.fp32_accuracy:.2f} %"
