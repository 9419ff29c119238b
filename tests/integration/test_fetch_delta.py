"""Receiving a delta: whatever is wrong with it, the file comes whole instead."""

from __future__ import annotations

import errno
import lzma
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from agent import durable
from agent.jobs import EnrollJob, FetchJob, FetchResult, StageJob
from agent.workers import enroll, fetch, stage
from agent.workers.child import JobError
from controller.artifacts.deltas import Delta
from fitment.core import delta as codec
from fitment.core import digest
from fitment.core.delta import Kind, Operation, Section
from fitment.core.deployment import BundleRef
from tests.integration.trust_server import CHUNK_BYTES, Controller, make_bundle

T = TypeVar("T")
RNG = random.Random(5)
OLD = RNG.randbytes(12 * CHUNK_BYTES)
NEW = bytes((b + (RNG.random() < 0.3)) & 255 for b in OLD)  # every third weight moved by one
OTHER = RNG.randbytes(3 * CHUNK_BYTES)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    running = Controller(tmp_path_factory.mktemp("controller"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def keys(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "keys"
    enroll.handle(
        EnrollJob(result="", controller=controller.enroll_address, token=controller.token(),
                  device="cam-1", keys=str(folder))
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def old(controller: Controller) -> BundleRef:
    return controller.publish(OLD, "v1")


@pytest.fixture(scope="module")
def new(controller: Controller) -> BundleRef:
    return controller.publish(NEW, "v2")


@pytest.fixture
def job(
    controller: Controller, keys: Path, old: BundleRef, new: BundleRef, tmp_path: Path
) -> FetchJob:
    """Fetch ``new`` on a device that runs ``old``."""
    controller.faults.__init__()  # type: ignore[misc]
    controller.book.offsets.clear()
    controller.book.sent_bytes = 0
    slot = tmp_path / "slot"
    unpack(controller.blobs.path(old.archive), old.variant, slot)
    return FetchJob(
        result="", connection=controller.connection(keys), archive=new.archive,
        archive_bytes=new.archive_bytes, target=str(tmp_path / "work" / "x.tar.xz"),
        base=old.variant, base_folder=str(slot), delta=str(tmp_path / "work" / "x.delta"),
        rebuilt=str(tmp_path / "work" / "x.tar"),
    )  # fmt: skip


def unpack(archive: Path, variant: str, folder: Path) -> None:
    stage.handle(
        StageJob(result="", archive_path=str(archive), folder=str(folder), variant=variant)
    )


def came_whole(result: FetchResult, job: FetchJob) -> None:
    assert result.delta_base == ""
    assert digest.digest_bytes(Path(job.target).read_bytes()) == job.archive
    assert not Path(job.rebuilt).exists()


def test_a_delta_gives_the_very_tar(
    job: FetchJob, new: BundleRef, controller: Controller, tmp_path: Path
) -> None:
    result = fetch.handle(job)
    assert result.delta_base == job.base
    assert result.wire_bytes == controller.book.sent_bytes < 0.3 * job.archive_bytes
    assert (result.total_bytes, result.note) == (job.archive_bytes, "")
    rebuilt = Path(job.rebuilt).read_bytes()
    assert rebuilt == lzma.decompress(controller.blobs.path(new.archive).read_bytes())
    stage.check_contents(job.rebuilt, new.variant)
    unpack(Path(job.rebuilt), new.variant, tmp_path / "spare")
    assert (tmp_path / "spare" / "model.onnx").read_bytes() == NEW


def test_what_was_rebuilt_before_a_power_loss_is_not_fetched_again(
    job: FetchJob, controller: Controller
) -> None:
    first = fetch.handle(job)
    controller.faults.status = grpc.StatusCode.UNAVAILABLE
    again = fetch.handle(job)
    assert (again.wire_bytes, again.delta_base) == (first.wire_bytes, job.base)


def test_a_delta_that_was_cut_goes_on_at_the_byte(job: FetchJob, controller: Controller) -> None:
    controller.faults.chunks = lambda chunks: iter([next(chunks)[:1000]])
    with pytest.raises(JobError) as caught:
        fetch.handle(job)
    assert (caught.value.code, caught.value.permanent) == ("unavailable", False)
    controller.faults.chunks = None
    result = fetch.handle(job)
    assert (result.resumed_from, controller.book.offsets) == (1000, [0, 1000])
    assert result.wire_bytes == controller.book.sent_bytes


def test_a_controller_that_knows_no_deltas(job: FetchJob, controller: Controller) -> None:
    controller.faults.knows_deltas = False
    result = fetch.handle(job)
    came_whole(result, job)
    assert result.note == ""


def test_a_device_that_knows_no_deltas(job: FetchJob, controller: Controller) -> None:
    came_whole(fetch.handle(replace(job, base="", base_folder="", delta="", rebuilt="")), job)
    assert controller.book.sent_bytes == job.archive_bytes


def test_what_no_delta_makes_smaller_comes_whole(job: FetchJob, controller: Controller) -> None:
    other = controller.publish(OTHER, "v3")
    wanted = replace(job, archive=other.archive, archive_bytes=other.archive_bytes)
    came_whole(fetch.handle(wanted), wanted)
    assert controller.book.sent_bytes == other.archive_bytes


def test_the_rest_of_a_whole_file_may_be_less_than_a_delta(
    job: FetchJob, controller: Controller
) -> None:
    data = controller.blobs.path(job.archive).read_bytes()
    Path(job.target).parent.mkdir()
    Path(job.target).write_bytes(data[:-5000])
    came_whole(fetch.handle(job), job)
    assert controller.book.sent_bytes == 5000


def damage_base(folder: Path, _controller: Controller) -> None:
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(777)
        file.write(b"\0\1\2")


def lose_a_file(folder: Path, _controller: Controller) -> None:
    (folder / "model.onnx").unlink()


def lose_the_base(folder: Path, _controller: Controller) -> None:
    shutil.rmtree(folder)


def put_another_base(folder: Path, controller: Controller) -> None:
    other = controller.publish(OTHER, "v3")
    unpack(controller.blobs.path(other.archive), other.variant, folder)


def alter_on_the_way(_folder: Path, controller: Controller) -> None:
    def altered(chunks: Iterator[bytes]) -> Iterator[bytes]:
        controller.faults.chunks = None
        first = next(chunks)
        yield first[:300] + bytes([first[300] ^ 1]) + first[301:]
        yield from chunks

    controller.faults.chunks = altered


def name_what_is_not_there(_folder: Path, controller: Controller) -> None:
    controller.faults.delta = Delta(delta="sha256:" + "0" * 64, delta_bytes=99, form="")


def name_no_delta(_folder: Path, controller: Controller) -> None:
    data = b"this is something else" * 30
    controller.faults.delta = named(controller, data)


def name_a_delta_for_another_base(_folder: Path, controller: Controller) -> None:
    base, target = controller.publish(OTHER, "v3"), controller.publish(OTHER[1:], "v4")
    controller.faults.delta = controller.deltas.ask(target.archive, base.variant).result(20)


def name_a_delta_with_a_wrong_end(folder: Path, controller: Controller) -> None:
    good = controller.deltas.ask(
        digest_of_new(controller), digest.digest_bytes((folder / "bundle.json").read_bytes())
    ).result(20)
    assert good is not None
    data = bytearray(controller.blobs.path(good.delta).read_bytes())
    data[40] ^= 1  # in the digest that it promises
    controller.faults.delta = named(controller, bytes(data))


def name_a_delta_with_a_damaged_section(folder: Path, controller: Controller) -> None:
    good = controller.deltas.ask(
        digest_of_new(controller), digest.digest_bytes((folder / "bundle.json").read_bytes())
    ).result(20)
    assert good is not None
    data = controller.blobs.path(good.delta).read_bytes()
    controller.faults.delta = named(controller, data[:-2000] + bytes(2000))


def named(controller: Controller, data: bytes) -> Delta:
    return Delta(delta=controller.blobs.put_bytes(data), delta_bytes=len(data), form="")


def digest_of_new(controller: Controller) -> str:
    return controller.publish(NEW, "v2").archive


@pytest.mark.parametrize(
    ("spoil", "said", "costs"),
    [
        (damage_base, "damaged", False),
        (lose_a_file, "cannot be read", False),
        (lose_the_base, "cannot be read", False),
        (put_another_base, "damaged", False),
        (alter_on_the_way, "has digest", True),
        (name_what_is_not_there, "no blob", False),
        (name_no_delta, "no delta", True),
        (name_a_delta_for_another_base, "another base", True),
        (name_a_delta_with_a_wrong_end, "other bytes", True),
        (name_a_delta_with_a_damaged_section, "damaged", True),
    ],
)
def test_a_delta_that_will_not_do_costs_its_bytes_and_nothing_else(
    job: FetchJob, controller: Controller, said: str, costs: bool,
    spoil: Callable[[Path, Controller], None],
) -> None:  # fmt: skip
    spoil(Path(job.base_folder), controller)
    result = fetch.handle(job)
    came_whole(result, job)
    assert said in result.note
    assert "whole file was fetched" in result.note
    assert result.wire_bytes == controller.book.sent_bytes
    assert (result.wire_bytes > job.archive_bytes) is costs
    assert sorted(p.name for p in Path(job.target).parent.iterdir()) == ["x.tar.xz"]


def test_a_delta_to_another_variant_is_found_out_before_it_is_unpacked(
    job: FetchJob, controller: Controller, new: BundleRef, old: BundleRef, tmp_path: Path
) -> None:
    """Only a controller that lies does this: the delta is whole and fits the base."""
    other = controller.publish(NEW[100:], "v5")
    controller.faults.delta = controller.deltas.ask(other.archive, old.variant).result(20)
    fetch.handle(job)
    for act in (
        lambda: stage.check_contents(job.rebuilt, new.variant),
        lambda: unpack(Path(job.rebuilt), new.variant, tmp_path / "spare"),
    ):
        with pytest.raises(JobError) as caught:
            act()
        assert (caught.value.code, caught.value.permanent) == ("digest", False)  # fetched whole
    assert not (tmp_path / "spare").exists()


def test_a_disk_that_fills_up_while_rebuilding(
    job: FetchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(name: str, path: Path, act: Callable[[], T]) -> T:
        if name == "sync" and path.name.endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return act()

    with monkeypatch.context() as patched:
        patched.setattr(durable, "step", step)
        with pytest.raises(JobError) as caught:
            fetch.handle(job)
    assert (caught.value.code, caught.value.permanent) == ("disk_full", False)
    assert sorted(p.name for p in Path(job.delta).parent.iterdir()) == ["x.delta"]
    result = fetch.handle(job)
    assert (result.delta_base, result.resumed_from) == (job.base, result.wire_bytes)


def test_a_small_disk_is_said_before_anything_is_rebuilt(
    job: FetchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    free = 8 * 1024 * 1024 + 100_000  # room for the delta, not for what comes of it
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(JobError) as caught:
        fetch.handle(job)
    assert caught.value.code == "disk_full"
    assert not Path(job.rebuilt).exists()


CAPPED = """
import resource, sys
from pathlib import Path
from agent.workers import rebuild
_, path, folder, base, target = sys.argv
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 12 * 2**20, used + 12 * 2**20))
with rebuild.opened(Path(folder), base) as image:
    rebuild.rebuild(Path(path), image, base, Path(target))
"""


def test_memory_is_bounded_by_the_kernel(tmp_path: Path, root: Path) -> None:
    """A target of 40 MiB, rebuilt with 12 MiB more than an interpreter that has just started."""
    part = RNG.randbytes(1024 * 1024)
    folder = make_bundle(tmp_path / "slot", content=part * 40)
    base = digest.digest_bytes((folder / "bundle.json").read_bytes())
    whole = (folder / "bundle.json").read_bytes() + b"\x93NUMPY" + part[:64] + part * 40
    size = len(whole) // 8 * 4
    plan = [
        Operation(kind=Kind.SUB_4, length=size), Operation(kind=Kind.SUB_1, length=size, base=size),
        Operation(kind=Kind.COPY, length=len(whole) - 2 * size, base=2 * size),
    ]  # fmt: skip
    sections = {Section.OPERATIONS: codec.write_operations(plan), Section.BYTES: bytes(size)}
    sections |= {Section.QUADS + i: bytes(size // 4) for i in range(4)}  # type: ignore[misc]
    packed = [
        lzma.compress(sections[n], lzma.FORMAT_ALONE, preset=0) if n in sections else b""  # type: ignore[index]
        for n in range(codec.SECTIONS)
    ]
    header = codec.Header(
        base=digest.hex_of(base), base_bytes=len(whole), target_bytes=len(whole),
        target=digest.hex_of(digest.digest_bytes(whole)), sizes=tuple(len(p) for p in packed),
    )  # fmt: skip
    (tmp_path / "x.delta").write_bytes(codec.write_header(header) + b"".join(packed))
    done = subprocess.run(
        [sys.executable, "-c", CAPPED, str(tmp_path / "x.delta"), str(folder), base,
         str(tmp_path / "out.tar")],
        cwd=root, env={"PYTHONPATH": f"{root}:{root / 'protos'}"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.tar").stat().st_size == len(whole)
