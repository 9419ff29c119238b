"""Devices that ask to be let in: who sees what, and who may answer."""

from __future__ import annotations

from dataclasses import replace

from controller.dashboard.draw import pending as draw_pending
from controller.dashboard.views import pending
from controller.domain.belonging import Applicant


def test_who_waits_is_answered_by_those_who_may() -> None:
    asks = Applicant(name="door", key_hash="sha256:k", code="AB12", asked_at=1.0, seen_at=2.0)
    refused = replace(asks, name="<b>", rejected_at=3.0)
    came = replace(asks, name="in", approved_at=4.0, admitted_at=5.0)
    view = pending.pending((asks, refused, came), may=False)
    assert [(w.name, w.may) for w in view.waiting] == [("door", False)]
    assert [(a.name, a.answer) for a in view.answered] == [("in", "came in"), ("<b>", "refused")]
    assert "&lt;b&gt;" in draw_pending.answered(view)
    assert "AB12" in draw_pending.applicant(view.waiting[0])
    nobody = pending.pending((), may=True)
    assert "enrolment_by_approval" in draw_pending.head(nobody, open_=False)
    assert "fitment-agent enroll" in draw_pending.head(nobody, open_=True)
