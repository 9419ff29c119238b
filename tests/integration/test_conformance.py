"""``fitment conformance`` on our own agent, on one that breaks rules, on one that keeps them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controller.conformance import bundles
from controller.conformance.checks import CHECKS, UNCHECKED
from controller.gateway.broker import find_mosquitto
from fitment.core.bundle import BundleManifest
from tests.integration import worker_models

SMALL = Path(__file__).with_name("small_agent.py")
LONG_S = 600.0

BROKEN = {
    # check -> the fault that breaks its rule, and what the check says of it
    "enrol-authority": ("any-authority", "it sent its token"),
    "enrol-refused": ("enrolled-anyway", "it says that it enrolled"),
    "link-fingerprint": ("wrong-hash", "the hash of hardware is not that"),
    "link-command": ("deaf-to-commands", "no report within"),
    "link-unknown": ("strict", "no outcome within"),
    "telemetry-sequence": ("skips", "numbers with a gap"),
    "telemetry-again": ("never-again", "did not come again after a cut"),
    "telemetry-acknowledged": ("deaf-to-acks", "are still held"),
    "order-states": ("backwards", "reported in the order fetching, verifying, committing"),
    "order-once": ("repeats", "it was carried out once more"),
    "verify-signature": ("believes-signatures", "it was committed"),
    "verify-director": ("any-director", "it was committed"),
    "verify-device": ("any-device", "it was committed"),
    "verify-counter": ("any-counter", "it was committed"),
    "verify-digest": ("any-digest", "it went on to"),
    "verify-versions": ("first-versions", "it says version 1 of timestamp"),
    "window-opens": ("deaf-to-windows", "its window was shut, and it went on to"),
    "window-over": ("deaf-to-windows", "its window is over, and it went on to"),
    "fetch-mirror-lies": ("believes-mirrors", "it took other bytes than were signed"),
    "fetch-mirror-gone": ("lost-without-mirror", "outcome failed"),
    "fetch-resumes": ("begins-anew", "it began anew at 0"),
    "fetch-busy": ("impatient", "asked again after 0."),
}
ALONE = {
    # the same for faults that would hide the others
    "link-generation": ("same-generation", "no report that observed generation"),
    "link-garbage": ("dies-of-garbage", "no report within"),
    "link-late": ("obeys-late", "past their deadline"),
    "telemetry-strange-ack": ("any-outbox", "was taken for its own"),
}


WRONG_ORDERS = (
    "verify-signature", "verify-payload", "verify-director", "verify-key", "verify-device",
    "verify-counter", "verify-replay",
)  # fmt: skip
"""What a broker that lies could send."""


def check(*options: str, code: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "controller", "conformance", "--json", *options],
        capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    return dict(json.loads(done.stdout))


def small(faults: str) -> list[str]:
    words = f"{{python}} {SMALL} {{folder}} {faults}"
    return ["--enroll", f"{words} enroll {{controller}} {{token}} {{device}}", "--run",
            f"{words} run"]  # fmt: skip


def only(*ids: str) -> list[str]:
    return [word for name in ids for word in ("--only", name)]


def verdicts(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["verdict"], row["evidence"]) for row in report["results"]}


@pytest.mark.parametrize("link", ["grpc", "mqtt"])
def test_our_agent_keeps_the_rules(link: str) -> None:
    if link == "mqtt" and find_mosquitto().program is None:
        pytest.skip(find_mosquitto().reason)
    # Transfers are the same whatever the link: over MQTT what it carries is checked.
    carried = ("enrol-token", "link", "telemetry", "order-commits", *WRONG_ORDERS)
    chosen = only() if link == "grpc" else only(*carried)
    report = check("--link", link, *chosen, code=0)
    assert report["passed"] is True
    assert (report["link"], report["runtime"]) == (link, "onnx")
    found = verdicts(report)
    assert {v for v, _ in found.values()} == {"pass"}
    assert len(found) == (len(CHECKS) if link == "grpc" else 16 + len(WRONG_ORDERS))


def test_an_agent_that_breaks_the_rules_fails_each_of_them(tmp_path: Path) -> None:
    faults = ",".join(fault for fault, _ in BROKEN.values())
    report = check(*small(faults), *only(*BROKEN), "--within", "4", code=1)
    found = verdicts(report)
    for name, (fault, words) in BROKEN.items():
        verdict, evidence = found[name]
        assert verdict == "fail", (name, fault, evidence)
        assert words in evidence, (name, fault, evidence)


def test_one_that_believes_wrong_orders_fails_over_mqtt_as_well() -> None:
    if find_mosquitto().program is None:
        pytest.skip(find_mosquitto().reason)
    believed = [name for name in WRONG_ORDERS if name in BROKEN]
    faults = ",".join(BROKEN[name][0] for name in believed)
    chosen = only("link-presence", *believed)
    report = check("--link", "mqtt", *small(faults), *chosen, "--within", "4", code=1)
    found = verdicts(report)
    assert found.pop("link-presence")[0] == "pass"
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        believed, "fail"
    )
    assert all(BROKEN[name][1] in evidence for name, (_, evidence) in found.items())


@pytest.mark.parametrize("name", ALONE)
def test_one_fault_is_found_alone(name: str) -> None:
    fault, words = ALONE[name]
    report = check(*small(fault), *only(name, "link-presence"), "--within", "4", code=1)
    found = verdicts(report)
    assert found[name][0] == "fail", found
    assert words in found[name][1]
    assert found["link-presence"][0] == "pass"


def test_the_same_agent_without_faults_passes_them() -> None:
    report = check(*small("none"), *only(*BROKEN, *ALONE), code=0)
    assert {verdict for verdict, _ in verdicts(report).values()} == {"pass"}


def test_an_agent_that_is_not_there_passes_nothing() -> None:
    report = check("--enroll", "false", "--run", "false", *only("enrol-token", "link-presence"),
                   code=1)  # fmt: skip
    assert {row["id"]: row["verdict"] for row in report["results"]} == {
        "enrol-token": "fail", "link-presence": "not-run"
    }  # fmt: skip
    assert report["passed"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "nonsense"], "no check 'nonsense'"),
        (["--link", "pigeon", "--only", "enrol"], "no link 'pigeon'"),
        (["--enroll", "x {nonsense}", "--only", "enrol-token"], "cannot fill"),
        (["--enroll", "/no/such/agent", "--only", "enrol-token"], "does not start"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(options: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "controller", "conformance", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_rules_and_checks_are_the_same_list(root: Path) -> None:
    text = (root / "protos" / "WIRE.md").read_text()
    leads = re.findall(r"^- ((?:`[a-z]+-[a-z-]+`(?:, )?)+) ", text, re.MULTILINE)
    rules = [name for lead in leads for name in re.findall(r"`(.+?)`", lead)]
    ids = [check.id for check in CHECKS]
    assert len(ids) == len(set(ids))
    assert sorted(rules) == sorted([*ids, *UNCHECKED])


@pytest.mark.parametrize("runtime", bundles.FORMATS)
def test_the_models_that_ship_are_those_of_the_workers_tests(runtime: str, tmp_path: Path) -> None:
    made = {m.runtime: m.data for m in worker_models.affine_models() if m.name == "float"}
    folder = bundles.make(tmp_path / "b", runtime, "v")
    manifest = json.loads((folder / "bundle.json").read_bytes())
    assert (folder / manifest["artifact"]).read_bytes() == made[runtime]
    assert set(manifest) == set(BundleManifest.__dataclass_fields__)
    assert bundles.WEIGHT.tolist() == worker_models.WEIGHT.tolist()
