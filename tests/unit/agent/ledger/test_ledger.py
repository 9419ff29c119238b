"""The ledger on its disk: what is counted once, kept over restarts, and written seldom."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import durable, ledger
from agent.domain.allowance import Allowance, Metered, Metering
from agent.jobs import TALLY, Connection, FetchJob
from agent.ledger import SAVE_S, Ledger
from agent.workers.child import JobError
from agent.workers.purse import Purse

WALL = 1_800_000_000.0
CAPPED = Allowance(transfer_bytes_per_month=10_000, write_bytes_per_day=50_000)


class World:
    """A ledger whose sources are set by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: int | None = 0
        self.link_bytes, self.now_s, self.asked = 0, 100.0, 0
        self.start()

    def start(self) -> None:
        def metering(_root: str) -> Metering:
            self.asked += 1
            return Metering(metered=False, why="a test says so")

        self.ledger = Ledger(self.folder, metering=metering, written=lambda: self.written)

    def tick(self, seconds: float = 1.0, *, wall: float = WALL) -> None:
        self.now_s += seconds
        self.ledger.tick(
            CAPPED, root="/", wall_unix=wall, floor_unix=WALL - 1e6, now_s=self.now_s,
            link_bytes=self.link_bytes,
        )  # fmt: skip

    def fetch(self, count: int, *, most: int | None = None) -> None:
        given = self.ledger.purse()
        job = FetchJob(
            result="", connection=Connection(gateway="", ca="", certificate="", key=""),
            archive="", archive_bytes=count, target="", tally=given.tally, tally_id=given.tally_id,
            most_bytes=given.most_bytes if most is None else most,
        )  # fmt: skip
        purse = Purse(job)
        with purse.kept():
            purse.need(count)
            purse.add(count)

    @property
    def transferred(self) -> int:
        return self.ledger.spent().transferred


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.tick()
    return found


def test_transfers_and_the_link_are_counted_together(world: World) -> None:
    world.fetch(700)
    world.link_bytes = 50
    world.tick()
    assert world.transferred == 750
    world.tick()
    assert world.transferred == 750


def test_a_transfer_survives_a_death_before_the_ledger_was_written(world: World) -> None:
    world.fetch(700)
    assert world.transferred == 700
    world.start()  # nothing was written but the tally
    world.tick()
    assert world.transferred == 700


def test_the_one_before_is_on_the_disk_when_the_next_begins(world: World) -> None:
    world.fetch(700)
    world.fetch(800)
    world.start()
    world.tick()
    assert world.transferred == 1500


def test_a_death_between_the_ledger_and_its_tally_counts_nothing_twice(world: World) -> None:
    world.fetch(700)
    tally = (world.folder / TALLY).read_bytes()
    world.ledger.spent()
    world.ledger.purse()
    assert not (world.folder / TALLY).exists()
    (world.folder / TALLY).write_bytes(tally)
    world.start()
    world.tick()
    assert world.transferred == 700


def test_half_a_line_of_the_tally_hides_no_other(world: World) -> None:
    world.fetch(700)
    with (world.folder / TALLY).open("ab") as file:
        file.write(b"\nabc 12")
    world.start()
    world.tick()
    assert world.transferred == 700


def test_a_purse_knows_what_is_left(world: World) -> None:
    world.fetch(7000)
    with pytest.raises(JobError) as caught:
        world.fetch(3001)
    assert caught.value.code == "allowance"
    assert "3000 bytes of the month's are left" in caught.value.message
    world.fetch(3000)
    assert world.transferred == 10_000


def test_it_is_written_every_quarter_of_an_hour_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    real = durable.write
    monkeypatch.setattr(durable, "write", lambda path, data: (saves.append(path), real(path, data)))
    for _ in range(int(3 * SAVE_S)):
        world.link_bytes += 10
        world.tick()
    assert len(saves) == 3
    world.start()
    world.link_bytes = 0
    world.tick()
    assert 0 <= 30 * SAVE_S - world.transferred <= 10 * SAVE_S


def test_what_came_after_the_ledger_was_written_is_settled_as_well(world: World) -> None:
    given = world.ledger.purse()
    for count in (400, 700):  # one transfer: the ledger is written in its midst
        with (world.folder / TALLY).open("a") as file:
            file.write(f"{given.tally_id} {count}\n")
        if count == 400:
            world.tick(SAVE_S)
    world.fetch(50)
    world.start()
    world.tick()
    assert world.transferred == 750


def test_a_disk_that_refuses_is_a_problem_and_no_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(path: Path, _data: bytes) -> None:
        tries.append(path)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(durable, "write", refuse)
        for _ in range(10):
            world.link_bytes += 10
            world.tick(SAVE_S / 5)
        assert "cannot be written" in world.ledger.problem
        assert len(tries) == 2
        world.fetch(700)
        assert world.transferred == 800
        world.fetch(50)
        world.ledger.close(world.link_bytes)
        assert (world.folder / TALLY).exists()  # it is in no ledger yet
    world.tick(SAVE_S)
    assert world.ledger.problem == ""
    world.start()
    world.link_bytes = 0
    world.tick()
    assert world.transferred == 850


def test_what_the_kernel_says_was_written(world: World) -> None:
    world.written = 5000
    world.tick(40)
    world.written = 6000
    assert world.ledger.spent().written == 6000
    world.ledger.close(0)
    world.written = 0  # another process
    world.start()
    world.tick()
    assert world.ledger.spent().written == 6000


def test_without_the_kernel_a_transfer_is_the_estimate(world: World) -> None:
    world.written = None
    world.fetch(100)
    assert world.ledger.spent().written == 300


def test_1970_moves_no_month(world: World) -> None:
    world.fetch(700)
    world.tick()
    world.tick(wall=3.0)
    world.link_bytes += 5
    world.tick(wall=4.0)
    assert world.transferred == 705
    world.tick(wall=WALL + 10)
    assert world.transferred == 705


def test_a_month_later_nothing_is_spent(world: World) -> None:
    world.fetch(700)
    assert world.transferred == 700
    world.tick(wall=WALL + 31 * 86400)
    assert world.transferred == 0


def test_a_damaged_ledger_begins_anew_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text('{"transfers"')
    assert "begins anew" in World(tmp_path).ledger.problem


def test_the_link_is_asked_about_once_a_look_and_not_where_the_operator_says(world: World) -> None:
    for _ in range(5):
        assert world.ledger.metering().metered is False
    assert world.asked == 1
    said = Allowance(metered=Metered.ALWAYS)
    world.ledger.tick(
        said, root="/", wall_unix=WALL, floor_unix=0, now_s=world.now_s + 99, link_bytes=0
    )
    assert (world.ledger.metering().metered, world.asked) == (True, 1)


def test_it_can_be_read_beside_the_agent(world: World) -> None:
    world.fetch(700)
    world.fetch(50)
    found = ledger.stored(world.folder, CAPPED, WALL, 0.0)
    assert found.transferred == 750
    assert ledger.stored(world.folder / "none", CAPPED, WALL, 0.0).transferred == 0
