"""Announced stacks on the page of triggers."""

from __future__ import annotations

from controller.dashboard.draw.stacks import stacks
from controller.dashboard.views.stacks import stack_rows
from controller.domain.stacks import (
    DeviceStanding,
    StackAnnouncement,
    StackPart,
    StackState,
    Standing,
)


def announced(name: str, state: StackState, **more: object) -> StackAnnouncement:
    made = {"id": name, "name": name, "profile": "p", "created_at": 1.0, "state": state}
    return StackAnnouncement(**(made | more))  # type: ignore[arg-type]


def test_it_shows_what_will_run_and_who_is_not_ready() -> None:
    part = StackPart(model="m", chosen="sha256:x", name="fp32", tested="lab took fp32 (0.9 ms p50)")
    going = announced("os-8", StackState.PREPARED, device="lab", parts={"shoes": part})
    over = announced("os-7", StackState.REFUSED, closed_at=2.0, result="shoes: 9 ms, 2 ms allowed")
    late = [
        DeviceStanding(device=f"d{n}", standing=Standing.NOT_READY, reason="<full>")
        for n in range(5)
    ]
    ready = DeviceStanding(device="ok", standing=Standing.READY, reason="")
    first, second = stack_rows([over, going], {"os-8": [*late, ready]})
    assert (first.name, first.ready) == ("os-8", "5 not ready, 1 ready")
    assert first.late == ("d0: <full>", "d1: <full>", "d2: <full>", "and 2 more")
    assert second.said == "shoes: 9 ms, 2 ms allowed"
    page = stacks((first, second))
    for words in ("lab took fp32 (0.9 ms p50)", "prepared", "refused",
                  "d0: &lt;full&gt;", "/devices/lab", "2 ms allowed"):  # fmt: skip
        assert words in page
    assert "fitment stack announce" in stacks(())
