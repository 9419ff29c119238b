"""REST on a real socket, a real engine and a real controller; the typed client on the other end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from controller import cli
from controller.cli.fleet_fit import answer, follow
from controller.client import Client, Unreachable
from controller.domain import fleet
from controller.errors import Conflict, FitError, NotFound, TrustError, UserError, WorkloadError
from controller.testing import ScriptedFits
from controller.trust import Trust
from fitment.core.telemetry import Column, TelemetryBatch
from tests.integration.gateway_stage import NOW, TOKEN, Stage, staged

MODEL = fleet.ModelVersion(
    id="model-1", name="m", version="1", digest="sha256:m", snapshot="/none", registered_at=1.0
)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust.create(folder / "trust", folder / "offline")


@pytest.fixture
def stage(trust: Trust, tmp_path: Path) -> Iterator[Stage]:
    with staged(trust, tmp_path) as made:
        yield made


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.url, TOKEN) as made:
        yield made


@pytest.mark.parametrize(
    "header", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}]
)
@pytest.mark.parametrize(
    "path", ["/v1/status", "/v1/devices", "/v1/nothing", "/", "/docs", "/openapi.json"]
)
def test_nobody_gets_in_without_the_token(stage: Stage, header: dict[str, str], path: str) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, stage.url + path, headers=header)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "unauthenticated"


def test_health_is_open_and_tells_nothing(stage: Stage) -> None:
    assert httpx.get(f"{stage.url}/healthz").json() == {"status": "ok"}


def test_a_wrong_token_is_said_in_words(stage: Stage) -> None:
    with Client(stage.url, "wrong") as stranger, pytest.raises(UserError, match="FITMENT_TOKEN"):
        stranger.status()


def test_nobody_there_is_said_in_words() -> None:
    with Client("http://127.0.0.1:9", TOKEN) as lonely, pytest.raises(Unreachable, match="serve"):
        lonely.status()


def test_status_counts(stage: Stage, client: Client) -> None:
    stage.join("device-a")
    status = client.status()
    assert (status.devices, status.online, status.models) == (1, 1, 0)
    assert status.addresses.enroll == "127.0.0.1:1"
    assert "a note" in status.notes


def test_tokens_admit_and_carry_labels(client: Client) -> None:
    token = client.create_token(60.0, {"site": "lab"})
    assert token.text.startswith("fit1.")
    assert token.expires_at == 1_800_000_060.0
    assert token.labels == {"site": "lab"}
    with pytest.raises(UserError, match="lifetime"):
        client.create_token(0.0)


def test_devices_are_listed_shown_and_revoked(stage: Stage, client: Client) -> None:
    stage.join("device-a")
    stage.join("device-b")
    assert [device.name for device in client.devices()] == ["device-a", "device-b"]
    shown = client.device("device-a")
    assert shown.profile
    assert shown.reported is not None
    assert client.revoke("device-a").revoked
    assert stage.looks == [frozenset({"device-a"})]
    with pytest.raises(NotFound, match="fitment device list"):
        client.device("nobody")
    with pytest.raises(NotFound):
        client.revoke("nobody")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b", "a#b"])
def test_a_name_cannot_reach_another_route(client: Client, name: str) -> None:
    with pytest.raises(UserError, match="is no name"):
        client.device(name)


def test_telemetry_gives_the_newest(stage: Stage, client: Client) -> None:
    stage.join("device-a")
    batch = TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(1, 2),
        wall_unix_ns=(1_000_000_000, 2_000_000_000),
        columns={"temperature_c": Column(values=(40.0, 41.0))},
    )  # fmt: skip
    store = stage.controller.store
    stage.engine.call(lambda: store.telemetry.ingest("device-a", batch)).result(5)
    view = client.telemetry("device-a", "temperature_c", 1)
    assert view.values == ((2.0, 41.0),)
    assert view.samples > 0
    with pytest.raises(UserError, match="limit"):
        client.telemetry("device-a", "temperature_c", 0)


def test_from_a_model_to_a_rollout(stage: Stage, client: Client) -> None:
    stage.join("device-a")
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    assert client.model("m") == MODEL
    jobs = client.start_fits("m", effort="quick")
    assert len(jobs) == 1
    stage.until(lambda: client.fit(jobs[0].id).status is fleet.JobStatus.DONE)
    assert [job.id for job in client.fits(model=MODEL.id)] == [jobs[0].id]
    release = client.create_release("m")
    assert client.releases() == (release,)
    waiting = client.create_rollout(release.id, waves=[1.0])
    assert waiting.rollout.state is fleet.RolloutState.AWAITING_APPROVAL
    assert [r.id for r in client.approve_model("m")] == [release.id]
    with pytest.raises(Conflict, match="waits for approval"):
        client.approve_model("m")
    assert client.approve_release(release.id).approved_at
    stage.until(
        lambda: client.rollout(waiting.rollout.id).rollout.state is fleet.RolloutState.COMPLETED
    )
    view = client.rollout(waiting.rollout.id)
    assert [d.device for d in view.deployments] == ["device-a"]
    assert [r.id for r in client.rollouts()] == [waiting.rollout.id]
    actions = [entry.action for entry in client.audit()]
    assert {"model_registered", "fit_started", "release_approved", "rollout_created"} <= set(
        actions
    )
    assert [e.action for e in client.audit(action="rollout_created")] == ["rollout_created"]
    assert len(client.audit(limit=1)) == 1
    assert client.triggers() == ()


def test_a_rollout_is_paused_and_goes_on(stage: Stage, client: Client) -> None:
    stage.join("device-a").behave = lambda _assignment: None
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    (job,) = client.start_fits("m")
    stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
    release = client.create_release("m")
    client.approve_release(release.id)
    rollout = client.create_rollout(release.id, waves=[1.0]).rollout.id
    for act, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert client.change_rollout(rollout, act).rollout.state.value == state
    with pytest.raises(Conflict):
        client.change_rollout(rollout, "pause")
    with pytest.raises(UserError, match="cannot 'explode'"):
        client.change_rollout(rollout, "explode")


def test_two_variants_are_compared(stage: Stage, client: Client) -> None:
    stage.join("device-a")
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    (job,) = client.start_fits("m")
    stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
    one, other = client.fit(job.id).variants[:2]
    found = client.compare(one.name, other.bundle.variant.removeprefix("sha256:")[:12])
    assert (found.a.name, found.b.name) == (one.name, other.name)
    assert found.a.digests == {one.bundle.variant}
    (device,) = found.devices
    assert device.a is not None
    assert device.b is not None
    assert device.a.source.startswith("study ")
    assert device.changes["latency"].value == pytest.approx(
        device.b.latency_ms.value / device.a.latency_ms.value  # type: ignore[operator]
    )
    assert device.changes["energy"].value is None
    assert device.changes["energy"].why
    with pytest.raises(NotFound, match=f"there are .*{one.name}"):
        client.compare(one.name, "none-such")
    with pytest.raises(UserError, match="the same variant"):
        client.compare(one.name, one.bundle.variant)
    with pytest.raises(NotFound, match="no model 'x'"):
        client.compare(one.name, other.name, "x")
    assert client.compare(one.name, other.name, "m").b.model == MODEL.id
    headers = {"authorization": f"Bearer {TOKEN}"}
    plain = httpx.get(f"{stage.url}/v1/variants/{other.name}", headers=headers).json()
    assert plain["a"]["name"] == "fp32"
    answer = httpx.get(f"{stage.url}/v1/variants/{other.name}?with=x", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


def test_a_rollout_shows_its_windows_and_refuses_what_never_opens(
    stage: Stage, client: Client
) -> None:
    stage.join("device-a").behave = lambda _assignment: None
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    (job,) = client.start_fits("m")
    stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
    release = client.create_release("m")
    client.approve_release(release.id)
    night = ["mon-sun 2:00 +2h Europe/Berlin"]
    for windows, deadline_s, words in (
        (night, 3600.0, "no device would switch"),
        (["daily 02:00 +0h UTC"], 8 * 86_400.0, "too short"),
        (["daily 02:00 +2h Nowhere/Land"], 8 * 86_400.0, "no IANA time zone"),
        (["2020-01-01 02:00 +2h UTC"], 8 * 86_400.0, "is over"),
    ):
        with pytest.raises(UserError, match=words):
            client.create_rollout(release.id, windows=windows, deadline_s=deadline_s)
    made = client.create_rollout(release.id, windows=night, deadline_s=8 * 86_400.0)
    assert made.rollout.windows == ("daily 02:00 +2h Europe/Berlin",)
    stage.until(lambda: bool(client.rollout(made.rollout.id).deployments))
    (deployment,) = client.rollout(made.rollout.id).deployments
    assert len(deployment.windows) == 8


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/fits", "{", "no JSON"),
        ("/v1/fits", "[]", "JSON object"),
        ("/v1/fits", '{"modle": "m"}', "unknown key 'modle'"),
        ("/v1/fits", '{"model": 3}', "FitRequest.model"),
        ("/v1/fits", '{"model": "m", "effort": "heroic"}', "effort"),
        ("/v1/fits", "{}", "'model' is missing"),
        ("/v1/models", '{"path": "relative.py"}', "absolute path"),
        ("/v1/tokens", '{"ttl_s": "1h"}', "ttl_s"),
    ],
)
def test_a_bad_body_says_what_is_wrong(stage: Stage, path: str, body: str, words: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = httpx.post(stage.url + path, content=body, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


def test_an_unknown_filter_or_route_is_no_silent_success(stage: Stage) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = httpx.get(f"{stage.url}/v1/devices?profil=x", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    missing = httpx.get(f"{stage.url}/v1/nothing", headers=headers)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert httpx.delete(f"{stage.url}/v1/devices", headers=headers).status_code == 405


def test_errors_keep_their_kind_and_an_unexpected_one_its_secret(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untrusted(_key: str) -> fleet.ModelVersion:
        raise TrustError("the offline keys are not here")

    monkeypatch.setattr(stage.controller, "find_model", untrusted)
    with pytest.raises(TrustError, match="offline keys"):
        client.model("m")

    def broken(_key: str) -> fleet.ModelVersion:
        raise KeyError("/secret/path")

    monkeypatch.setattr(stage.controller, "find_model", broken)
    answer = httpx.get(f"{stage.url}/v1/models/m", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_workload_is_copied_validated_and_registered_once(
    stage: Stage, client: Client, root: Path
) -> None:
    workload = root / "controller" / "examples" / "onnx_only" / "workload.py"
    model = client.register_model(str(workload))
    assert (model.name, model.version) == ("onnx_only", "1.0.0")
    assert model.budget.accuracy_drop_max == 0.02
    assert (Path(model.snapshot) / "workload.py").read_bytes() == workload.read_bytes()
    assert client.register_model(str(workload)) == model
    assert client.models() == (model,)
    broken = stage.folder / "broken.py"
    broken.write_text("name = 'x'\n")
    with pytest.raises(WorkloadError, match="no `version`"):
        client.register_model(str(broken))


def test_answers_are_plain_json(stage: Stage, client: Client) -> None:
    stage.join("device-a")
    headers = {"authorization": f"Bearer {TOKEN}"}
    document = json.loads(httpx.get(f"{stage.url}/v1/devices", headers=headers).text)
    assert document[0]["name"] == "device-a"
    assert replace(client.devices()[0], name="x").name == "x"


def test_the_command_line_shows_all_of_it(
    stage: Stage,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FITMENT_SERVER", stage.url)
    monkeypatch.setenv("FITMENT_TOKEN", TOKEN)
    stage.join("device-a")
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)

    def says(*arguments: str) -> str:
        assert cli.run(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    (job,) = json.loads(says("fit", "m", "--no-wait", "--json"))
    stage.until(lambda: client.fit(job["id"]).status is fleet.JobStatus.DONE)
    assert "int8" in says("fit", "m")
    release = json.loads(says("release", "create", "m", "--json"))["id"]
    assert "counter" in says("release", "show", release)
    assert "approved" in says("release", "approve", release)
    rollout = json.loads(says("rollout", "create", release, "--waves", "1", "--json"))
    rollout_id = rollout["rollout"]["id"]
    stage.until(lambda: client.rollout(rollout_id).rollout.state is fleet.RolloutState.COMPLETED)
    assert "committed" in says("rollout", "status", rollout_id)
    assert "m: int8" in says("device", "list")
    assert "profile" in says("device", "show", "device-a")
    brings = ("--runtime", "onnxruntime=9.9.1", "--fact", "driver=7")
    said = says("stack", "announce", "os-8", "--profile", "generic-x86_64", *brings)
    assert "driver 7, runtime.onnx 9.9" in said
    for arguments in (
        ["status"], ["model", "list"], ["model", "show", "m"], ["rollout", "list"], ["audit"],
        ["variant", "compare", "fp32", "int8"],
        ["release", "list"], ["trigger", "list"], ["ticket", "list"], ["model", "policy", "m"],
        ["stack", "show", "os-8"], ["stack", "list"], ["stack", "list", "--all"],
        ["model", "policy", "m", "canary"], ["model", "policy", "--all", "propose"],
        ["device", "telemetry", "device-a", "x_ms"],
    ):  # fmt: skip
        assert says(*arguments)
        json.loads(says(*arguments, "--json"))
    stage.until(lambda: "has to report the stack" in client.stack("os-8").stack.waits)
    assert "withdrawn" in says("stack", "withdraw", "os-8", "it was put off")
    assert "os-8" not in says("stack", "list")
    with pytest.raises(Conflict, match="has ended as withdrawn: it was put off"):
        client.withdraw_stack("os-8", "again")
    with pytest.raises(UserError, match="NAME=VERSION"):
        client.announce_stack("os-9", profile="generic-x86_64", runtimes=["onnx"])
    lines = tmp_path / "labels.jsonl"
    seen = [{"device": "device-a", "time": NOW + n, "correct": n > 0, "slice": "night"}
            for n in range(4)]  # fmt: skip
    lines.write_text("".join(f"{json.dumps(line)}\n" for line in seen))
    assert "4 taken, 0 changed, 0 known" in says("label", "post", str(lines))
    assert "0 taken, 0 changed, 4 known" in says("label", "post", str(lines))
    assert "75.00%" in says("label", "show", "--device", "device-a", "--by", "slice")
    assert "new      all" in says("rollout", "field", rollout_id)
    rows = client.field("release", device="device-a").rows
    assert [(row.name, row.count, row.right) for row in rows] == [(release, 4, 3)]
    lines.write_text('{"device": "device-a", "time": 1}\n')
    assert cli.run(["label", "post", str(lines)]) == cli.USER_ERROR
    assert "label 1: a line has one of 'label'" in capsys.readouterr().err
    assert cli.run(["rollout", "pause", rollout_id]) == cli.USER_ERROR
    assert cli.run(["model", "approve", "m"]) == cli.USER_ERROR
    assert "is revoked" in says("device", "revoke", "device-a")


def test_a_fit_that_failed_is_a_failure(
    stage: Stage,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FITMENT_SERVER", stage.url)
    monkeypatch.setenv("FITMENT_TOKEN", TOKEN)
    assert cli.run(["fit", "m"]) == cli.USER_ERROR
    assert "fitment model register m" in capsys.readouterr().err
    fits = stage.controller.context.fits
    assert isinstance(fits, ScriptedFits)
    fits.error = "no recipe holds\nand more"
    stage.join("device-a")
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    (job,) = client.start_fits("m")
    stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.FAILED)
    with pytest.raises(FitError, match="no recipe holds"):
        answer(follow(client, client.fits()), as_json=False)
    assert "failed" in capsys.readouterr().out
