"""Jobs that a deployment and a study have in common: receive, verify, unpack."""

from __future__ import annotations

from pathlib import Path

from agent import durable
from agent.desk import Desk
from agent.domain.allowance import Hold
from agent.domain.record import SlotFacts
from agent.jobs import FetchJob, StageJob, VerifyJob
from fitment.core.deployment import BundleRef, SignedPayload


def fetch(desk: Desk, bundle: BundleRef, base: SlotFacts | None = None) -> FetchJob:
    """Receive a transport file, going on where the part file ends; or a delta against ``base``."""
    target, purse = desk.folders.archive(bundle), desk.ledger.purse()
    durable.make_folder(target.parent, mode=0o700)
    return FetchJob(
        result="",
        connection=desk.connection,
        archive=bundle.archive,
        archive_bytes=bundle.archive_bytes,
        target=str(target),
        base=base.variant if base else "",
        base_folder=str(desk.slots.folder(base.slot, base.last_good)) if base else "",
        delta=str(desk.folders.delta(bundle)),
        rebuilt=str(desk.folders.rebuilt(bundle)),
        lied=str(desk.folders.lied(bundle)),
        tally=purse.tally,
        tally_id=purse.tally_id,
        most_bytes=purse.most_bytes,
    )


def held(desk: Desk, bundle: BundleRef, *, asked: bool = False, delta: bool = False) -> Hold | None:
    """Why a transport file may not be received now; None when it may, or is here.

    Args:
        desk: as it is.
        bundle: which.
        asked: the order asks for a metered link.
        delta: it may come as a delta.
    """
    here = desk.folders.archive(bundle)
    missing = bundle.archive_bytes - (here.stat().st_size if here.exists() else 0)
    if desk.folders.rebuilt(bundle).exists():
        missing = 0
    return desk.ledger.hold(missing, asked=asked, delta=delta)


def received(desk: Desk, bundle: BundleRef) -> Path:
    """What was received: the transport file, or its tar when that was rebuilt."""
    rebuilt = desk.folders.rebuilt(bundle)
    return rebuilt if rebuilt.exists() else desk.folders.archive(bundle)


def forget(desk: Desk, bundle: BundleRef) -> None:
    """Take away all that was received of a bundle."""
    folders = desk.folders
    part = folders.rebuilt(bundle).with_suffix(".tar.part")
    received = (folders.archive(bundle), folders.delta(bundle), folders.rebuilt(bundle), part)
    for path in received:
        durable.remove(path)
    durable.remove_written(folders.lied(bundle))


def verify(
    desk: Desk, order: SignedPayload, bundle: BundleRef, *, kind: str, lowest_counter: int = 0,
    rung: int = 0,
) -> VerifyJob:  # fmt: skip
    """Check an order and its transport file."""
    keys, path = desk.folders.keys, received(desk, bundle)
    return VerifyJob(
        result="",
        connection=desk.connection,
        order=order,
        kind=kind,
        device=desk.device,
        archive_path=str(path),
        rebuilt=path == desk.folders.rebuilt(bundle),
        director_key=str(keys / "director.pub"),
        trusted_root=str(keys / "tuf_root.json"),
        metadata_dir=str(desk.folders.metadata),
        lowest_counter=lowest_counter,
        rung=rung,
        now_unix=desk.floor_unix or None,
    )


def stage(desk: Desk, bundle: BundleRef, folder: Path) -> StageJob:
    """Unpack a verified transport file."""
    return StageJob(
        result="",
        archive_path=str(received(desk, bundle)),
        folder=str(folder),
        variant=bundle.variant,
        runtimes=desk.runtimes,
    )


def arrived_bytes(desk: Desk, bundle: BundleRef) -> int:
    """What is there of a bundle, or of a delta for it."""
    folders = desk.folders
    files = (folders.archive(bundle), folders.delta(bundle), folders.rebuilt(bundle))
    return sum(file.stat().st_size for file in files if file.exists())


def raise_floor(desk: Desk, timestamp_unix: float) -> None:
    """Keep the latest trusted time: a clock that falls behind it is not believed."""
    if timestamp_unix > desk.floor_unix:
        desk.journal.save_setting("time_floor", repr(timestamp_unix))
