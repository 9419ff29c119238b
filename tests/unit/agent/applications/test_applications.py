"""The applications' socket, with real connections; the loop is the test's own."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import durable
from agent.applications import Applications
from agent.client import AwayError, ClientError, Lease, register
from agent.domain.leases import LEASE_S
from agent.domain.record import SlotFacts
from agent.journal import Journal, open_journal
from agent.peers import FRAMES_AT_ONCE
from agent.slots import Slots
from fitment.core import digest
from fitment.core.bundle import BundleManifest, IoSpec, TensorSpec
from fitment.core.deployment import DeploymentState as State
from tests.unit.agent.domain.orders import assignment, record

IO = IoSpec(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),), outputs=(),
    labels=("left", "right"),
)  # fmt: skip


class Agent:
    """Journal, slots and the socket of one device; `do` lets its loop turn while a client asks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 0.0
        self.journal: Journal = open_journal(folder / "journal.db")
        self.slots = Slots(folder / "slots")
        self.apps = Applications(folder / "run")
        self.apps.listen()
        assert self.apps.problem == ""

    def commit(self, letter: str) -> str:
        """A bundle that serves in slot ``shoes``."""
        self.slots.prepare("shoes")
        folder = self.slots.folder("shoes", letter)
        folder.mkdir()
        content = digest.canonical(BundleManifest(name=letter, io=IO))
        (folder / "bundle.json").write_bytes(content)
        variant = digest.digest_bytes(content)
        self.slots.switch("shoes", letter)
        self.journal.save_slot(SlotFacts(slot="shoes", variant=variant, last_good=letter))
        return variant

    def tick(self) -> None:
        self.apps.tick(self.journal, self.slots, self.now_s)

    def do(self, ask: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()

        def act() -> None:
            try:
                answer.set_result(ask())
            except Exception as error:  # noqa: BLE001 - handed on to the test
                answer.set_exception(error)

        thread = threading.Thread(target=act)
        thread.start()
        while thread.is_alive():
            self.tick()
            thread.join(0.001)
        return answer.result()

    def register(self, name: str = "cam", **more: Any) -> Lease:
        lease: Lease = self.do(lambda: register(name, "shoes", self.apps.path, **more))
        return lease

    def names(self) -> list[str]:
        return [lease.registered.application for lease in self.apps.of("shoes")]

    def again(self) -> None:
        """Another process of the agent."""
        self.apps.close()
        self.apps = Applications(self.folder / "run")
        self.apps.listen()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.apps.close()
    made.journal.close()


def test_a_lease_from_its_beginning_to_its_end(agent: Agent) -> None:
    first = agent.commit("a")
    lease = agent.register(expects={"labels": ["left", "right"]})
    assert (lease.variant, lease.overlay, lease.lease_s) == (first, "", LEASE_S)
    assert Path(lease.folder) == agent.slots.folder("shoes", "a")
    assert agent.apps.holder(agent.slots.folder("shoes", "a")) == "cam"
    agent.do(lambda: lease.loaded(first))
    assert not agent.do(lease.renew)
    second = agent.commit("b")
    assert agent.do(lease.renew)
    assert (lease.variant, lease.folder[-1]) == (second, "b")
    with pytest.raises(ClientError, match="ask for the lease again"):
        agent.do(lambda: lease.loaded(first))
    agent.do(lambda: lease.loaded(second))
    agent.do(lambda: lease.report([1.5, 2.5], errors=1))
    (held,) = agent.apps.of("shoes")
    assert (held.loaded.variant, held.told()[1].requests, held.told()[1].errors) == (second, 2, 1)
    assert agent.apps.holder(agent.slots.folder("shoes", "a")) == ""
    lease.release()
    agent.tick()
    assert agent.names() == []
    assert json.loads(agent.journal.setting("applications")) == []


def test_the_power_goes_around_a_registration(
    agent: Agent, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that an application was told of is one that the next process knows of."""
    agent.commit("a")
    shots = tmp_path_factory.mktemp("shots")

    def keep(name: str) -> None:
        sockets = shutil.ignore_patterns("run")
        shutil.copytree(agent.folder, shots / name, symlinks=True, ignore=sockets)

    def step(name: str, _path: Path, act: Callable[[], Any]) -> Any:
        assert name == "commit"
        keep("before")
        found = act()
        keep("after")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(durable, "step", step)
        told = agent.register(expects={"labels": ["left", "right"]})
    told.release()
    for shot, known in (("before", []), ("after", ["cam"])):
        later = Agent(shots / shot)
        later.tick()
        assert later.names() == known
        held = later.apps.holder(later.slots.folder("shoes", "a"))
        assert held == (known[0] if known else "")  # until it comes back, its bundle stays
        lease = later.register()
        assert Path(lease.folder) == later.slots.folder("shoes", "a")
        lease.release()
        later.apps.close()
        later.journal.close()


def test_one_that_floods_the_socket_waits_for_its_turn(agent: Agent) -> None:
    """A release and a registration are a write each: of a thousand, few go before the loop."""
    agent.commit("a")
    ask = json.dumps({"op": "register", "application": "cam", "slot": "shoes"}).encode()
    leave = json.dumps({"op": "release"}).encode()
    pair = b"".join(struct.pack(">I", len(one)) + one for one in (ask, leave))
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(agent.apps.path))
        raw.sendall(500 * pair)
        for answers in range(FRAMES_AT_ONCE, 1001, FRAMES_AT_ONCE):
            agent.tick()
            for _ in range(FRAMES_AT_ONCE):
                (length,) = struct.unpack(">I", _exactly(raw, 4))
                assert json.loads(_exactly(raw, length))["ok"], answers
            with pytest.raises(BlockingIOError):
                raw.recv(1, socket.MSG_DONTWAIT)


def _exactly(raw: socket.socket, count: int) -> bytes:
    data = raw.recv(count, socket.MSG_WAITALL)
    assert len(data) == count
    return data


def test_silence_ends_a_lease(agent: Agent) -> None:
    agent.commit("a")
    lease = agent.register()
    agent.now_s = LEASE_S + 1
    agent.tick()
    assert agent.names() == []
    with pytest.raises(AwayError):
        lease.loaded(lease.variant)


def test_who_asks_while_the_slot_is_empty_is_heard(agent: Agent) -> None:
    agent.commit("a")
    lease = agent.register()
    agent.slots.deactivate("shoes")
    for _ in range(3):
        agent.now_s += LEASE_S - 1
        with pytest.raises(ClientError) as refused:
            agent.do(lease.renew)
        assert refused.value.code == "slot_empty"
    assert agent.names() == ["cam"]
    lease.release()


@pytest.mark.parametrize("ends", ["killed", "released", "before it was given"])
def test_who_ends_with_what_is_on_trial_is_missed(agent: Agent, ends: str) -> None:
    agent.commit("a")
    lease, raw = agent.register(), agent.register("other")
    agent.commit("b")
    agent.journal.save_slot(SlotFacts(slot="shoes", variant="old", last_good="a"))
    order = assignment("d-1", slot="shoes")
    agent.journal.save(record(State.TRIAL, assignment=order, folder="b"))
    agent.now_s = 20.0
    if ends != "before it was given":
        assert agent.do(lease.renew)
    if ends == "released":
        lease.release()
    else:
        lease._close()
    agent.tick()
    missed = [one.registered.application for one in agent.apps.gone("shoes")]
    assert (missed, agent.names()) == (["cam"] if ends == "killed" else [], ["other"])
    again = agent.register()
    (held,) = (one for one in agent.apps.of("shoes") if one.registered.application == "cam")
    assert held.since_s == (0.0 if ends == "killed" else 20.0)  # no more time than it had
    assert agent.apps.gone("shoes") == ()
    again._close()
    agent.tick()
    agent.journal.save(record(State.REPORTING, assignment=order, folder="b"))
    agent.tick()
    assert agent.apps.gone("shoes") == ()
    raw.release()


def test_a_restart_of_the_agent_clears_no_variant(agent: Agent) -> None:
    agent.commit("a")
    lease = agent.register()
    agent.commit("b")
    order = assignment("d-1", slot="shoes")
    agent.journal.save_slot(SlotFacts(slot="shoes", variant="old", last_good="a"))
    agent.journal.save(record(State.TRIAL, assignment=order, folder="b"))
    assert agent.do(lease.renew)
    lease._close()
    agent.tick()
    for _ in range(2):
        agent.again()
        agent.tick()
        assert [one.registered.application for one in agent.apps.gone("shoes")] == ["cam"]
    agent.journal.save(record(State.REPORTING, assignment=order, folder="b"))
    agent.tick()
    assert agent.apps.gone("shoes") == ()
    agent.again()
    agent.tick()
    assert agent.apps.gone("shoes") == ()


def test_until_it_is_back_an_application_holds_all_of_its_slot(agent: Agent) -> None:
    variant = agent.commit("a")
    lease = agent.register()
    agent.do(lambda: lease.loaded(variant))
    agent.again()
    agent.tick()
    for slot, letter in (("shoes", "a"), ("shoes", "b"), ("shoes~1", "a")):
        assert agent.apps.holder(agent.slots.folder(slot, letter)) == "cam"
    assert agent.apps.holder(agent.slots.folder("hats", "a")) == ""
    lease.release()
    agent.now_s = LEASE_S + 1
    agent.tick()
    assert agent.apps.holder(agent.slots.folder("shoes", "a")) == ""


def test_a_lease_outlives_the_agent_and_is_waited_for(agent: Agent) -> None:
    variant = agent.commit("a")
    lease = agent.register()
    agent.do(lambda: lease.loaded(variant))
    agent.again()
    agent.tick()
    (held,) = agent.apps.of("shoes")
    assert (held.registered.application, held.loaded.variant) == ("cam", "")
    assert not lease.renew()  # it finds that the agent was away, and goes on with what it has
    assert not agent.do(lease.renew)
    (held,) = agent.apps.of("shoes")
    assert held.loaded.variant == variant  # told again, unasked
    lease.release()
    agent.tick()
    agent.register("other").release()
    agent.again()
    agent.tick()
    agent.now_s += LEASE_S + 1
    agent.tick()
    assert agent.names() == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"expects": {"labels": ["right", "left"]}}, "io_mismatch"),
        ({"expects": {"colour": 1}}, "io_mismatch"),
        ({"name": "a b"}, "invalid"),
        ({"name": "taken"}, "taken"),
    ],
)
def test_what_cannot_be_given_is_refused(agent: Agent, more: dict[str, Any], code: str) -> None:
    agent.commit("a")
    other = agent.register("taken")
    with pytest.raises(ClientError) as refused:
        agent.register(**more)
    assert refused.value.code == code
    other.release()


def test_an_empty_slot_gives_nothing(agent: Agent) -> None:
    with pytest.raises(ClientError) as refused:
        agent.register()
    assert refused.value.code == "slot_empty"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b'{"op": "fly"}', "op_unknown"),
        (b'{"op": "lease"}', "not_registered"),
        (b"[]", "frame"),
        (b"\xff", "frame"),
        (b"[" * 60_000, "frame"),
        (b'{"op": ' + b"[" * 950 + b"]" * 950 + b"}", "frame invalid op_unknown"),
        (
            b'{"op": "register", "application": "x", "slot": "s", "expects": {"labels": '
            + b"[" * 300
            + b"]" * 300
            + b"}}",
            "invalid",
        ),
        (b'{"op": "register", "application": "x", "slot": "s", "expects": 3}', "invalid"),
    ],
)
def test_garbage_is_answered(agent: Agent, sent: bytes, code: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(agent.apps.path))
        raw.sendall(struct.pack(">I", len(sent)) + sent)
        agent.tick()
        assert json.loads(raw.recv(4096)[4:])["code"] in code.split()
        agent.tick()


def test_reports_are_held_to_their_form(agent: Agent) -> None:
    agent.commit("a")
    lease = agent.register()
    huge, endless = 10**400, float("inf")
    wrong: tuple[tuple[Any, int], ...] = (
        ([-1.0], 0), (["x"], 0), ([1.0], -1), ([huge], 0), ([endless], 0), ([1.0], huge),
    )  # fmt: skip
    for latencies, errors in wrong:
        with pytest.raises(ClientError, match="number|count"):
            agent.do(partial(lease.report, latencies, errors))
    lease.release()


def test_a_socket_that_cannot_be_is_a_problem_and_no_end(tmp_path: Path) -> None:
    made = Applications(tmp_path / ("x" * 120))
    made.listen()
    assert "cannot reach the agent" in made.problem
    made.close()
