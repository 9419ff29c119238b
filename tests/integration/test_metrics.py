"""What Prometheus reads, from a real controller; and the board that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from controller.client import Client
from controller.domain import fleet
from controller.gateway import metrics
from controller.reconcile.engine import TICK_BUCKETS_S, Ticks
from controller.store import open_store
from controller.trust import Trust
from fitment.core.deployment import Outcome
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict
from tests.integration.gateway_stage import METRICS_TOKEN, TOKEN, Stage, staged

NAME = re.compile(r"\bfitment_[a-z0-9_]+")
LABELS = r'([a-z]+="([^"\\\n]|\\.)*",?)*'
LINE = re.compile(r"(?P<name>[a-z0-9_]+)(\{(?P<labels>" + LABELS + r")\})? (?P<value>\S+)")
FACTS = metrics.Facts(version="1", link="grpc", link_up=True, ticks=Ticks())


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust.create(folder / "trust", folder / "offline")


@pytest.fixture
def stage(trust: Trust, tmp_path: Path) -> Iterator[Stage]:
    with staged(trust, tmp_path) as made:
        yield made


def parsed(text: str) -> dict[str, dict[str, float]]:
    """Metric to labels to value, as strictly as Prometheus reads it."""
    found: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            matched = LINE.fullmatch(line)
            assert matched, line
            family = re.sub("_(bucket|sum|count)$", "", matched["name"])
            assert matched["name"] in kinds or kinds[family] == "histogram"
            samples = found.setdefault(matched["name"], {})
            assert (matched["labels"] or "") not in samples
            samples[matched["labels"] or ""] = float(matched["value"])
    assert all(kinds[name] == "counter" for name in kinds if name.endswith("_total"))
    return found


def scrape(stage: Stage) -> dict[str, dict[str, float]]:
    headers = {"authorization": f"Bearer {METRICS_TOKEN}"}
    answer = httpx.get(f"{stage.url}/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == metrics.CONTENT_TYPE
    return parsed(answer.text)


def test_the_metrics_token_opens_metrics_and_nothing_else(stage: Stage) -> None:
    def status(method: str, path: str, token: str) -> int:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.request(method, stage.url + path, headers=headers).status_code

    assert status("GET", "/metrics", METRICS_TOKEN) == status("GET", "/metrics", TOKEN) == 200
    assert status("GET", "/metrics", "wrong") == status("GET", "/metrics", "x y") == 401
    assert status("POST", "/metrics", METRICS_TOKEN) == 401
    for path in ("/v1/status", "/v1/devices", "/metrics/", "/v1/metrics"):
        assert status("GET", path, METRICS_TOKEN) == 401
    assert status("POST", "/v1/tokens", METRICS_TOKEN) == 401


def test_metrics_follow_the_fleet(stage: Stage) -> None:
    stage.join("device-a")
    stage.join("device-b")
    model = fleet.ModelVersion(
        id="model-1", name="m", version="1", digest="d", snapshot="/none", registered_at=1.0
    )
    stage.engine.call(lambda: stage.controller.register_model(model)).result(5)
    with Client(stage.url, TOKEN) as client:
        profile = client.device("device-a").profile
        (job,) = client.start_fits("m")
        stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
        release = client.create_release("m")
        client.approve_release(release.id)
        key = client.create_rollout(release.id, waves=[1.0]).rollout.id
        stage.until(lambda: client.rollout(key).rollout.state is fleet.RolloutState.COMPLETED)
        client.revoke("device-b")
    found = scrape(stage)
    assert found["fitment_devices"] == {
        f'profile="{profile}",state="online"': 1.0, f'profile="{profile}",state="revoked"': 1.0,
    }  # fmt: skip
    assert found["fitment_deployments"] == {'outcome="committed"': 2.0}
    assert found["fitment_rollouts"] == {'state="completed"': 1.0}
    assert found["fitment_fits"] == {'status="done"': 1.0}
    assert found["fitment_link_up"] == {'link="grpc"': 1.0}
    assert found["fitment_telemetry_rows"] == {"": 0.0}
    ((labels, seconds),) = found["fitment_latency_p50_seconds"].items()
    assert labels.startswith(f'profile="{profile}",model="m",variant="')
    assert labels.endswith('verdict="valid",emulated="false"')
    assert seconds == pytest.approx(0.0003)
    assert found["fitment_latency_devices"] == {labels: 2.0}
    ticks = found["fitment_loop_tick_seconds_count"][""]
    assert ticks > 0
    assert found["fitment_loop_tick_seconds_bucket"]['le="+Inf"'] >= ticks
    assert found["fitment_loop_tick_seconds_sum"][""] > 0
    assert found["fitment_loop_tick_failures_total"] == {"": 0.0}


def deployment(number: int, device: str, p50_ms: float, **more: object) -> fleet.Deployment:
    latency = Latency(
        count=9, mean_ms=p50_ms, min_ms=p50_ms, p50_ms=p50_ms, p50_low_ms=p50_ms, p50_high_ms=p50_ms
    )
    taken = Measurement(
        id="m", bundle="sha256:" + "a" * 64, runtime="onnx", threads=1, verdict=Verdict.VALID,
        energy=Energy(status=ReadingStatus.UNAVAILABLE), latency=latency,
    )  # fmt: skip
    return fleet.Deployment(
        id=str(number), rollout="r", release="r", device=device, slot="m", variant="v", wave=0,
        created_at=1.0, cohort=fleet.Cohort(profile="pi5", hardware="h", stack="s"),
        outcome=Outcome.COMMITTED, measurement=replace(taken, **more),
    )  # fmt: skip


def test_verdicts_and_stand_ins_are_never_mixed() -> None:
    store = open_store("memory://", "default")
    rows: tuple[tuple[str, float, Mapping[str, object]], ...] = (
        ("a", 9.0, {}),  # an older one of the same device
        ("a", 1.0, {}),
        ("b", 3.0, {}),
        ("c", 50.0, {"verdict": Verdict.THROTTLED}),
        ("d", 0.1, {"emulated": True}),
        ("e", 7.0, {"latency": None}),
    )
    for number, (device, p50_ms, more) in enumerate(rows):
        store.deployments.add(deployment(number, device, p50_ms, **more))
    found = parsed(metrics.write(metrics.collect(store, FACTS)))["fitment_latency_p50_seconds"]
    told = {re.sub('.*verdict="(.*)",emulated="(.*)"', r"\1 \2", k): v for k, v in found.items()}
    assert told == {"valid false": 0.002, "throttled false": 0.05, "valid true": 0.0001}


def test_whatever_a_name_holds_stays_in_its_quotes() -> None:
    store = open_store("memory://", "default")
    store.devices.add(fleet.Device(name="a", profile='x"} 1\nfitment_devices 9\\'))
    found = parsed(metrics.write(metrics.collect(store, FACTS)))
    assert list(found["fitment_devices"].values()) == [1.0]


def test_ticks_add_up() -> None:
    ticks = Ticks()
    for seconds in (0.001, 0.005, 0.3, 99.0):
        ticks = ticks.with_one(seconds, failed=seconds > 1)
    store = open_store("memory://", "default")
    families = metrics.collect(store, replace(FACTS, ticks=ticks))
    buckets = parsed(metrics.write(families))["fitment_loop_tick_seconds_bucket"]
    assert len(buckets) == len(TICK_BUCKETS_S) + 1
    assert [buckets[f'le="{le}"'] for le in ("0.005", "0.25", "0.5", "+Inf")] == [2, 2, 3, 4]
    assert ticks.failures == 1


def test_the_board_shows_what_there_is_and_nothing_else(root: Path) -> None:
    board = json.loads((root / "deploy" / "grafana" / "fitment.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [v["definition"] for v in board["templating"]["list"] if v["type"] == "query"]
    shown = {
        re.sub("_(bucket|sum|count)$", "", name) for e in expressions for name in NAME.findall(e)
    }
    store = open_store("memory://", "default")
    assert shown == {family.name for family in metrics.collect(store, FACTS)}
    sources = {json.dumps(panel["datasource"]) for panel in board["panels"]}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert board["templating"]["list"][0]["type"] == "datasource"
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert all(x + width <= 24 for x, _, width, _ in places)


def test_the_board_tells_labels_that_there_are(root: Path) -> None:
    board = json.loads((root / "deploy" / "grafana" / "fitment.json").read_text())
    store = open_store("memory://", "default")
    store.devices.add(fleet.Device(name="a", profile="pi5"))
    store.deployments.add(deployment(1, "a", 1.0))
    store.rollouts.add(
        fleet.Rollout(id="r", release="r", state=fleet.RolloutState.RUNNING, created_at=1.0)
    )
    cohort = fleet.Cohort(profile="p", hardware="h", stack="s")
    job = fleet.FitJob(id="j", model="m", cohort=cohort, status=fleet.JobStatus.DONE, created_at=1)
    store.jobs.add(job)
    store.triggers.add(
        fleet.Trigger(
            id="t", kind=fleet.TriggerKind.NEW_PROFILE, device="a", model="m", cohort=cohort,
            reason="r", created_at=1.0,
        )
    )  # fmt: skip
    labels = {
        family.name: {name for _, pairs, _ in family.samples for name, _ in pairs}
        for family in metrics.collect(store, FACTS)
    }
    for panel in board["panels"]:
        for target in panel["targets"]:
            known = set().union(*(labels.get(n, set()) for n in NAME.findall(target["expr"])))
            asked = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            asked |= set(re.findall(r'(\w+)!?=~?"', target["expr"])) - {"instance"}
            assert asked <= known, panel["title"]
