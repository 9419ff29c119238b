"""What operators type about groups, previews, notes and applicants, on a real controller's REST."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller import cli
from controller.cli import completing
from controller.client import Client
from controller.domain import fleet
from controller.domain.belonging import Applicant
from controller.trust import Trust
from tests.integration.gateway_stage import NOW, TOKEN, Stage, staged

Type = Callable[..., Any]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with staged(Trust.create(folder / "trust", folder / "offline"), folder) as made:
        for name in ("cam-1", "cam-2", "cam-3"):
            made.join(name)
        yield made


@pytest.fixture
def types(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Type:
    monkeypatch.setenv("FITMENT_SERVER", stage.url)
    monkeypatch.setenv("FITMENT_TOKEN", TOKEN)

    def typed(*words: str, fails: bool = False) -> Any:
        """What a command answers as JSON; its text where it answers none, or its error."""
        code = cli.run([*words])
        out, err = capsys.readouterr()
        if fails:
            assert code == cli.USER_ERROR, (words, out, err)
            return err
        assert code == 0, (words, err)
        return json.loads(out) if "--json" in words else out

    return typed


def test_groups_are_made_asked_and_forgotten(types: Type) -> None:
    types("device", "label", "cam-1", "site=lab")
    types("device", "label", "cam-2", "site=lab", "old=1")
    assert "cam-2: site=lab\n" in types("device", "label", "cam-2", "old-")
    made = types("group", "create", "lab", 'label.site == "lab"', "--json")
    assert (made["members"], made["online"]) == (2, 2)
    listed = types("device", "list", "--group", "lab", "--where", 'name ~ "*-2"', "--json")
    assert [device["name"] for device in listed] == ["cam-2"]
    assert "No device matches." in types("device", "list", "--where", "not online")
    empty = types("group", "create", "moon", 'label.site == "moon"')
    assert 'no device matches now: label.site is "lab" (2 devices)' in empty
    assert "did you mean 'online'" in types("device", "list", "--where", "onlin", fails=True)
    assert "group change lab" in types("group", "create", "lab", "online", fails=True)
    assert "no device can ever" in types(
        "group", "create", "x", "online and not online", fails=True
    )
    assert [d["name"] for d in types("group", "members", "lab", "--json")] == ["cam-1", "cam-2"]
    assert completing.complete_groups("mo") == ["moon"]
    assert completing.complete_devices("cam-") == ["cam-1", "cam-2", "cam-3"]
    types("group", "delete", "moon")
    assert "no group is named 'moon'" in types("group", "show", "moon", fails=True)


def test_matching_devices_come_in_pages(stage: Stage) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    url: str | None = f"{stage.url}/v1/devices?limit=1&where=name%20~%20%22cam-*%22%20and%20online"
    names = []
    while url is not None:
        answer = httpx.get(url, headers=headers)
        names += [device["name"] for device in answer.json()]
        following = answer.links.get("next", {}).get("url")
        url = f"{stage.url}{following}" if following else None
    assert names == ["cam-1", "cam-2", "cam-3"]


def test_a_dry_run_says_who_and_begins_nothing(stage: Stage, types: Type) -> None:
    model = fleet.ModelVersion(
        id="model-1", name="m", version="1", digest="sha256:m", snapshot="/none", registered_at=1.0
    )
    stage.engine.call(lambda: stage.controller.register_model(model)).result(5)
    with Client(stage.url, TOKEN) as client:
        (job,) = client.start_fits("m")
        stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
        release = client.create_release("m")
    asked = ("rollout", "create", release.id, "--where", 'name != "cam-3"', "--waves", "0.5,1")
    found = types(*asked, "--dry-run", "--json")
    assert found["reached"] == [1, 2]
    assert [(p["device"], p["wave"]) for p in found["places"]] == [("cam-1", 0), ("cam-2", 1)]
    (left,) = found["left_out"]
    assert (left["device"], left["bar"], left["reason"]) == (
        "cam-3", "not_selected", 'name is "cam-3"',
    )  # fmt: skip
    shown = types(*asked, "--dry-run")
    assert "1 up to wave 1 (50%), 2 up to wave 2 (100%)" in shown
    assert types("rollout", "list", "--json") == []
    nobody = types("rollout", "create", release.id, "--where", "emulated", "--dry-run", fails=True)
    assert "there is no device of the selection (emulated)" in nobody


def test_notes_and_labels_go_out_and_come_back(types: Type, tmp_path: Path) -> None:
    types("device", "note", "cam-3", "its fan was replaced")
    (note,) = types("device", "history", "cam-3", "--kind", "note", "--json")
    assert (note["what"], note["actor"]) == ("its fan was replaced", "operator:local")
    file = tmp_path / "fleet.jsonl"
    types("device", "export", "--out", str(file))
    kinds = [sorted(json.loads(line)) for line in file.read_text().splitlines()]
    assert ["group", "where"] in kinds
    assert ["device", "labels", "notes"] in kinds
    same = types("device", "import", str(file), "--json")
    assert (same["labelled"], same["notes"], same["groups"]) == ([], 0, [])
    file.write_text('{"device": "cam-3", "labels": {"rack": "9"}}\n{"device": "gone"}\n')
    would = types("device", "import", str(file), "--dry-run", "--json")
    assert (would["labelled"], would["unknown"]) == (["cam-3"], ["gone"])
    assert "rack" not in types("device", "show", "cam-3")
    assert "1 device labelled" in types("device", "import", str(file))
    assert "rack=9" in types("device", "show", "cam-3")
    file.write_text('{"device": 3}\n')
    assert "line 1" in types("device", "import", str(file), fails=True)
    assert "cannot read" in types("device", "import", str(tmp_path / "none"), fails=True)


def test_who_waits_is_shown_and_compared(stage: Stage, types: Type) -> None:
    waiting = Applicant(
        name="new-1", key_hash="sha256:k", code="AAAAA-BBBBB", asked_at=NOW, seen_at=NOW
    )
    stage.engine.call(lambda: stage.controller.store.applicants.put(waiting)).result(5)
    assert "AAAAA-BBBBB" in types("device", "pending")
    assert "1 devices ask to be let in" in types("status")
    assert completing.complete_applicants("n") == ["new-1"]
    assert "compare" in types("device", "approve", "new-1", "--code", "CCCCC", fails=True)
    assert "compare the codes" in types("device", "approve", "new-1", "--json", fails=True)
    let_in = types("device", "approve", "new-1", "--code", "aaaaa bbbbb", "--json")
    assert let_in["approved_at"] == NOW
    assert "was let in already" in types("device", "reject", "new-1", fails=True)


def test_out_of_service_needs_a_word(stage: Stage, types: Type) -> None:
    stage.join("old-1")
    assert "say --yes" in types("device", "decommission", "old-1", "--json", fails=True)
    gone = types("device", "decommission", "old-1", "--yes", "--json")
    assert gone["revoked"]
    assert stage.looks[-1] == {"old-1"}, "brokers and sessions were told"
    assert "old-1" not in types("device", "list")
    assert "decommissioned" in types("device", "list", "--all")
    assert "was decommissioned" in types("device", "history", "old-1")
