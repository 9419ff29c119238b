"""What the journal keeps, and what it does when it is damaged or of another version."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from agent.domain.record import SlotFacts
from agent.errors import JournalError
from agent.journal import KEPT_ENDED, KEPT_KNOWN, KEPT_STUDIES, Journal, open_journal, read_journal
from agent.outbox import Outbox
from fitment.core.deployment import DeploymentState as State
from fitment.core.deployment import Outcome
from tests.unit.agent.domain.orders import assignment, record


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    opened = open_journal(tmp_path / "journal.db")
    yield opened  # type: ignore[misc]
    opened.close()


def test_it_is_durable_at_every_commit(journal: Journal) -> None:
    assert journal.rows("PRAGMA journal_mode") == [("wal",)]
    assert journal.rows("PRAGMA synchronous") == [(2,)]  # FULL


def test_the_active_deployment_comes_back(journal: Journal, tmp_path: Path) -> None:
    running = record(State.TRIAL, reasons=("a",), attempts=2)
    journal.save(record(State.FETCHING))
    journal.save(running)
    journal.close()
    again = open_journal(tmp_path / "journal.db")
    assert again.active() == running
    assert again.ended() == ()
    assert again.lost == ""
    again.close()


def test_ended_ones_wait_for_their_acknowledgement_in_order(journal: Journal) -> None:
    for number in range(KEPT_ENDED + 3):
        order = assignment(f"d-{number}")
        journal.save(record(State.REPORTING, assignment=order, outcome=Outcome.FAILED))
    assert journal.active() is None
    ended = [r.id for r in journal.ended()]
    assert ended == [f"d-{n}" for n in range(3, KEPT_ENDED + 3)]
    assert journal.history(2)[0].id == f"d-{KEPT_ENDED + 2}"


def test_ids_are_remembered_and_bounded(journal: Journal) -> None:
    for number in range(KEPT_KNOWN + 10):
        journal.save(record(State.IDLE, assignment=assignment(f"d-{number}")))
    known = journal.known()
    assert len(known) == KEPT_KNOWN
    assert f"d-{KEPT_KNOWN + 9}" in known
    assert "d-0" not in known


def test_slots_settings_and_quarantine(journal: Journal) -> None:
    facts = SlotFacts(slot="digits", variant="v", counter=3, golden_ok=False, reason="r")
    assert journal.slot("digits") == SlotFacts(slot="digits")
    journal.save_slot(replace(facts, counter=2))
    journal.save_slot(facts)
    assert journal.slots() == (facts,)
    journal.save_setting("name", "1")
    journal.save_setting("name", "2")
    assert journal.setting("name") == "2"
    assert journal.setting("other", "x") == "x"
    journal.count_failure("k", failed=True)
    journal.count_failure("k", failed=True)
    assert journal.quarantine() == {"k": 2}
    journal.count_failure("k", failed=False)
    assert journal.quarantine() == {}


def test_studies_and_submissions(journal: Journal) -> None:
    for number in range(KEPT_STUDIES + 2):
        journal.save_study(f"s-{number}", "why" if number == KEPT_STUDIES else "")
    studies = journal.studies()
    assert len(studies) == KEPT_STUDIES
    assert list(studies)[-1] == f"s-{KEPT_STUDIES + 1}"
    assert studies[f"s-{KEPT_STUDIES}"] == "why"
    journal.save_submission("b", 0, "{}")
    journal.save_submission("a", 0, "{}")
    journal.save_submission("b", 3, "{}")
    assert journal.submissions() == (("b", 3, "{}"), ("a", 0, "{}"))
    journal.drop_submission("b")
    assert [key for key, _, _ in journal.submissions()] == ["a"]


def test_a_transaction_is_all_or_nothing(journal: Journal) -> None:
    def half() -> None:
        with journal.transaction() as db:
            db.execute("INSERT INTO settings VALUES ('a', '1')")
            db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(JournalError, match="cannot be written"):
        half()
    assert journal.setting("a") == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"garbage, and not a database" * 1000),
        lambda path: _sql(path, "UPDATE deployments SET record = '{\"order\": 1}'"),
        lambda path: _sql(path, "UPDATE slots SET facts = 'no json'"),
        lambda path: _sql(path, "DROP TABLE deployments"),
    ],
    ids=["garbage", "record", "facts", "table"],
)
def test_a_damaged_journal_is_moved_aside_and_said(
    damage: object, journal: Journal, tmp_path: Path
) -> None:
    journal.save(record(State.TRIAL))
    journal.save_slot(SlotFacts(slot="digits"))
    journal.close()
    path = tmp_path / "journal.db"
    for name in ("journal.db-wal", "journal.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    damage(path)  # type: ignore[operator]
    again = open_journal(path)
    assert again.active() is None
    assert "begun anew" in again.lost
    assert (tmp_path / "journal.db.damaged.1").exists()
    again.close()
    path.write_bytes(b"garbage once more" * 1000)
    for name in ("journal.db-wal", "journal.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    open_journal(path).close()
    assert (tmp_path / "journal.db.damaged.2").exists()


def _sql(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_newer_journal_is_left_alone(journal: Journal, tmp_path: Path) -> None:
    journal.close()
    _sql(tmp_path / "journal.db", "PRAGMA user_version = 99")
    _sql(tmp_path / "journal.db", "PRAGMA application_id = 98")
    with pytest.raises(JournalError, match="newer agent"):
        open_journal(tmp_path / "journal.db")
    assert not list(tmp_path.glob("*.damaged*"))


def test_records_of_a_newer_agent_are_left_alone(journal: Journal, tmp_path: Path) -> None:
    journal.save(record(State.TRIAL, format=99))
    journal.close()
    with pytest.raises(JournalError, match="newer agent"):
        open_journal(tmp_path / "journal.db")


def test_an_older_journal_is_brought_up_to_date(tmp_path: Path) -> None:
    from agent import journal as module

    path = tmp_path / "journal.db"
    script = module._MIGRATIONS[0] + "PRAGMA user_version = 1;"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.execute("INSERT INTO settings VALUES ('sequence', '7')")
    connection.commit()
    connection.close()
    opened = open_journal(path)
    assert opened.setting("sequence") == "7"
    assert opened.quarantine() == {}
    opened.close()


@pytest.mark.parametrize("breaks", [False, True])
def test_an_agent_that_goes_back_to_the_version_before_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, breaks: bool
) -> None:
    """It goes on with what the newer one wrote where that only added, else with the copy."""
    from agent import journal as module

    path, ours = tmp_path / "journal.db", module._MIGRATIONS
    old = open_journal(path)
    old.save_slot(SlotFacts(slot="digits", counter=1))
    before = _row(old)
    old.close()
    with monkeypatch.context() as newer:
        script = "DROP TABLE studies;" if breaks else "CREATE TABLE more (id TEXT PRIMARY KEY);"
        newer.setattr(module, "_MIGRATIONS", (*ours, script))
        if breaks:
            newer.setattr(module, "_OLDEST", len(ours) + 1)
        new = open_journal(path)
        new.save_slot(SlotFacts(slot="digits", counter=2))
        after = _row(new)
        new.close()
    back = open_journal(path)
    assert back.slot("digits").counter == (1 if breaks else 2)
    assert bool(back.lost) is breaks  # then the counters beside the slots are asked
    there = _row(back)  # a number that the controller has under this outbox would be dropped
    assert (before, after) == ((before[0], 1), (before[0], 2))
    assert (there[1], there[0] == before[0]) == ((1, False) if breaks else (3, True))
    back.save_study("s-1")
    back.close()
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= ({"journal.db.newer.1"} if breaks else {f"journal.db.before-{len(ours)}"})
    with monkeypatch.context() as newer:  # and forward again
        newer.setattr(module, "_MIGRATIONS", (*ours, "CREATE TABLE IF NOT EXISTS more (id TEXT);"))
        again = open_journal(path)
        assert (again.lost, set(again.studies())) == ("", {"s-1"})
        again.close()


def _row(journal: Journal) -> tuple[str, int]:
    outbox = Outbox(journal)
    batch = outbox.append(boot_id="b", monotonic_ns=1, wall_unix_ns=1, columns={}, tags={})
    assert outbox.first_available() == 1
    return batch.outbox, batch.sequence


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot make"):
        open_journal(tmp_path / "file" / "below" / "journal.db")


def test_looking_at_it_changes_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.save_setting("name", "1")
    looking = read_journal(tmp_path / "journal.db")
    assert looking.setting("name") == "1"
    with pytest.raises(JournalError):
        looking.save_setting("name", "2")
    looking.close()
    with pytest.raises(JournalError, match="cannot read"):
        read_journal(tmp_path / "none.db")
