"""What a device's page says of its allowance, and of its answers by labels."""

from __future__ import annotations

from dataclasses import replace

from controller.dashboard.draw import twin as draw_twin
from controller.dashboard.views import twin
from controller.domain.labels import FieldTally
from fitment.core.deployment import AllowanceReport
from tests.unit.controller.dashboard.test_views import INT8, deployment, device, job


def test_a_device_says_what_it_may_still_transfer_and_what_waits_for_that() -> None:
    known = device("a")
    assert known.reported is not None
    used = AllowanceReport(
        transferred_bytes=9_900_000, transfer_bytes_per_month=10_000_000,
        written_bytes=2_000_000, metered=None, metered_why="nothing says so",
    )  # fmt: skip
    records = twin.DeviceRecords(
        device=replace(known, reported=replace(known.reported, allowance=used)),
        deployments=(
            deployment("a", outcome=None, held="transfer of this month is used up"),
            deployment("a", held="it was, before it ended"),
        ),
        names=twin.names_of([job()]),
    )
    view = twin.twin(records)
    assert view.allowance == (
        "9.9 MB of 10.0 MB transferred this month", "2.0 MB written today",
        "its link is taken as not metered (nothing says so)",
    )  # fmt: skip
    assert view.held == ("m: int8 waits, transfer of this month is used up",)
    shown = draw_twin.head(view)
    assert "orders held" in shown
    assert "orders held" not in draw_twin.head(twin.twin(twin.DeviceRecords(device=known)))


def test_labels_of_a_device_are_told_by_release_and_slice() -> None:
    def tally(release: str, start_s: int, part: str, count: int, right: int) -> FieldTally:
        return FieldTally(
            key=f"{release}{start_s}{part}", device="a", release=release, slice=part,
            variant=INT8.bundle.variant, start_s=start_s, count=count, right=right,
        )  # fmt: skip

    records = twin.DeviceRecords(
        device=device("a"), names=twin.names_of([job()]),
        tallies=(
            tally("old", 0, "", 10, 10), tally("new", 3600, "", 10, 8),
            tally("new", 7200, "", 10, 10), tally("new", 7200, "night", 0, 0),
        ),
    )  # fmt: skip
    rows = twin.twin(records).accuracy
    assert [(r.release, r.slice, r.labels, r.right.text) for r in rows] == [
        ("new", "", 20, "90.0%"), ("new", "night", 0, "–"), ("old", "", 10, "100.0%"),
    ]  # fmt: skip
    assert rows[0].right.note == "69.9% to 97.2%"
    assert "Field accuracy" in draw_twin.device(twin.twin(records))
