"""Records to rows: what each page says, and what it says when there is nothing."""

from __future__ import annotations

from dataclasses import replace

from controller.cli import devices
from controller.dashboard.draw import beside as draw_beside
from controller.dashboard.draw import pages as draw
from controller.dashboard.draw import twin as draw_twin
from controller.dashboard.views import beside, journal, overview, twin, waves, workbench
from controller.dashboard.views.words import Tone, Value
from controller.domain import comparison, field, fleet
from controller.domain.judgement import Exposure, GateReport, GateVerdict
from controller.domain.paired import Taken
from controller.testing import fingerprint, latency, variant
from fitment.core.deployment import (
    CalibrationMode,
    CalibrationReport,
    DeploymentState,
    Outcome,
    ReportedState,
    RungReport,
    SlotReport,
    Span,
)
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict

FP32, INT8, SLOW = variant("fp32", 1.0), variant("int8", 0.4, drop=0.001), variant("slow", 2.0)
COHORT = fleet.Cohort(profile="p", hardware="sha256:hh", stack="sha256:ss")


def measured(ms: float, **more: object) -> Measurement:
    values: dict[str, object] = {
        "id": "1", "bundle": INT8.bundle.variant, "runtime": "onnx 1", "threads": 1,
        "verdict": Verdict.VALID, "latency": latency(ms), "agreement": 0.99,
        "energy": Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor"),
    }  # fmt: skip
    return Measurement(**(values | more))  # type: ignore[arg-type]


def device(
    name: str, *, runs: str = "int8", emulated: bool = False, **more: object
) -> fleet.Device:
    slot = SlotReport(slot="m", variant="sha256:v" * bool(runs), name=runs, serving=bool(runs))
    reported = ReportedState(
        boot_id="b", agent_version="1", observed_generation=1,
        fingerprint=fingerprint(emulated=emulated), slots=(slot,), notes=("a note",),
    )  # fmt: skip
    values: dict[str, object] = {"profile": "p", "online": True, "reported": reported}
    return fleet.Device(name=name, **(values | more))  # type: ignore[arg-type]


def deployment(name: str, **more: object) -> fleet.Deployment:
    values: dict[str, object] = {
        "id": f"d-{name}", "rollout": "r", "release": "rel", "device": name, "slot": "m",
        "variant": INT8.bundle.variant, "wave": 0, "created_at": 5.0, "ended_at": 9.0,
        "outcome": Outcome.COMMITTED,
    }  # fmt: skip
    return fleet.Deployment(**(values | more))  # type: ignore[arg-type]


def test_a_deployment_that_waits_shows_the_window_to_come() -> None:
    spans = (Span(opens_unix=100, closes_unix=200), Span(opens_unix=300, closes_unix=400))
    night = rollout(fleet.RolloutState.RUNNING, windows=("daily 02:00 +2h Europe/Berlin",))
    row = deployment("a", outcome=None, state=DeploymentState.WAITING, windows=spans, ended_at=0.0)
    for now, opens in ((50.0, 100), (150.0, 100), (200.0, 300)):
        view = waves.waves(waves.RolloutRecords(rollout=night, deployments=(row,), now=now))
        assert view.devices[0].window is not None
        assert view.devices[0].window.opens_unix == opens
        assert "window from" in draw.rollout(view)
        assert "daily 02:00 +2h Europe/Berlin" in draw.rollout_head(view)
    over = waves.waves(waves.RolloutRecords(rollout=night, deployments=(row,), now=400.0))
    assert over.devices[0].window is None
    assert "window from" not in draw.rollout(over)


def rollout(state: fleet.RolloutState, **more: object) -> fleet.Rollout:
    return fleet.Rollout(id="r", release="rel", state=state, created_at=1.0, **more)  # type: ignore[arg-type]


def job(**more: object) -> fleet.FitJob:
    choice = fleet.Choice(
        chosen=INT8.bundle.variant, reason="fastest in budget",
        ranked=(INT8.bundle.variant, FP32.bundle.variant),
        rejected={SLOW.bundle.variant: "too slow"},
    )  # fmt: skip
    values: dict[str, object] = {
        "id": "j", "model": "m1", "cohort": COHORT, "status": fleet.JobStatus.DONE,
        "created_at": 1.0, "variants": (SLOW, FP32, INT8), "choice": choice,
        "measured": {INT8.bundle.variant: measured(0.3), FP32.bundle.variant: measured(1.1)},
    }  # fmt: skip
    return fleet.FitJob(**(values | more))  # type: ignore[arg-type]


MODEL = fleet.ModelVersion(
    id="m1", name="m", version="1", digest="sha256:m", snapshot="/", registered_at=1.0,
    budget=fleet.Budget(accuracy_drop_max=0.01, file_bytes_max=120_000, latency_p95_max_ms=2.0),
)  # fmt: skip


def test_an_empty_fleet_says_what_to_type() -> None:
    view = overview.overview(overview.FleetRecords())
    assert "fitment token create" in draw.devices(view)
    assert "fitment model register" in draw.activity(view)
    assert "fitment-agent run" in draw.matrix(view.matrix)
    assert "fitment model register" in draw.models(())
    assert "fitment rollout create" in draw.rollouts(view)
    assert "fitment status" in draw.triggers(())


def test_the_fleet_in_rows() -> None:
    devices = (
        device("b"), device("a", emulated=True), device("c", online=False, runs=""),
        device("gone", revoked=True), fleet.Device(name="new"),
    )  # fmt: skip
    records = overview.FleetRecords(devices=devices, models=(MODEL,), triggers=())
    view = overview.overview(records)
    assert [row.name for row in view.devices] == ["c", "new", "a", "b", "gone"]
    assert view.counts[0].number == 2
    assert view.counts[0].of == "of 4 devices"
    assert dict(view.matrix.cells) == {("p", "m: int8"): 2, ("p", "nothing yet"): 1}
    assert view.matrix.emulated == {"p"}
    assert draw.devices(view).count("emulated") == 2  # the mark's class and its word, once
    assert [r.name for r in overview.overview(records, "EMULATED int8").devices] == ["a"]
    assert "None of 5" in draw.devices(overview.overview(records, "nothing like it"))


def test_a_large_fleet_is_cut_and_says_so() -> None:
    many = tuple(device(f"d{n:03}") for n in range(overview.SHOWN_MOST + 7))
    view = overview.overview(overview.FleetRecords(devices=many))
    assert len(view.devices) == overview.SHOWN_MOST
    assert "7 more match" in draw.devices(view)


def test_progress_counts_the_newest_deployment_of_each_device() -> None:
    devices = (device("a"), device("b"), device("c", profile="other"))
    made = rollout(fleet.RolloutState.RUNNING, selector={"profile": "p"})
    tried = (
        deployment("a", id="1", outcome=Outcome.FAILED), deployment("a", id="2", outcome=None),
        deployment("b"),
    )  # fmt: skip
    row = overview.rollout_row(made, devices, tried)
    assert (row.words, row.fraction) == ("1 of 2 devices ended", 0.5)
    nobody = overview.rollout_row(made, (), ())
    assert nobody.fraction == 0.0


def test_a_device_that_never_reported_has_reasons_everywhere() -> None:
    view = twin.twin(twin.DeviceRecords(device=fleet.Device(name="new", enrolled_at=1.0)))
    assert view.profile.note == "it has not reported yet"
    shown = draw_twin.head(view) + draw_twin.notes(view) + draw_twin.device(view)
    assert "fitment-agent run" in shown
    assert "fitment rollout create" in shown
    assert ">0<" not in shown


def test_a_device_with_its_history() -> None:
    calibrated = CalibrationReport(
        id="c", mode=CalibrationMode.MOMENTS, applied=True, reason="", samples=256, drift=0.18,
        agreement_before=0.9, agreement_after=0.95,
    )  # fmt: skip
    held = (
        deployment("a", created_at=1.0, measurement=measured(0.2, emulated=True)),
        deployment("a", created_at=2.0, measurement=measured(0.3, baseline_latency=latency(0.6)),
                   calibration=calibrated),
        deployment("a", created_at=3.0, variant="sha256:" + "f" * 64, outcome=None),
    )  # fmt: skip
    records = twin.DeviceRecords(
        device=device("a", emulated=True), deployments=held, names=twin.names_of([job()]),
        series={"temperature_c": ((2.0, 41.0), (1.0, float("nan"))), "cpu_mhz": ()}, samples=2,
    )  # fmt: skip
    view = twin.twin(records)
    newest, middle, oldest = view.history
    assert (newest.variant, newest.p50.note) == ("f" * 12, "nothing was measured")
    assert (middle.variant, middle.ratio.text) == ("int8", "× 0.50")
    assert middle.calibration.note == "256 samples, drift 0.18, agreement 90.00% → 95.00%"
    assert oldest.p50.note == "valid, emulated"
    assert oldest.energy.note == "no sensor"
    assert oldest.calibration.note == "not asked"
    assert view.series[0].points == ((2.0, 41.0),)
    assert view.series[1].newest.note == "no sensor says it"
    assert view.notes == ("a note",)
    assert draw_twin.head(view).count('class="badge emulated"') == 1


def test_a_slots_ladder_says_which_rung_serves_since_when_and_why() -> None:
    rungs = (
        RungReport(rung=1, variant="sha256:n", name="narrow", ready=True, p50_ms=0.25),
        RungReport(rung=2, variant="sha256:p", name="fp32", portable=True, reason="not there yet"),
    )
    slot = SlotReport(
        slot="m", variant="sha256:v", name="int8", serving=True, ladder=rungs, rung=1,
        rung_since_unix=1_800_000_000.0, rung_reason="heat: 84.0 °C",
    )  # fmt: skip
    row = twin.slot_row(slot)
    assert (row.state.word, row.rung.text, row.rung.note) == (
        "serving a lesser variant", "1: narrow", "heat: 84.0 °C"
    )  # fmt: skip
    assert row.ladder == (
        "rung 1: narrow, 0.25 ms p50, ready",
        "rung 2: fp32 (portable), not ready: not there yet",
    )
    known = device("a")
    assert known.reported is not None
    shown = draw_twin.device(
        twin.twin(
            twin.DeviceRecords(
                device=replace(known, reported=replace(known.reported, slots=(slot,)))
            )
        )
    )
    assert "2027-01-15 08:00:00 UTC" in shown
    assert "heat: 84.0 °C" in shown
    at_rest = replace(slot, rung=0, rung_reason="the pressure is over")
    assert twin.slot_row(at_rest).rung.note == "the pressure is over"
    assert twin.slot_row(replace(at_rest, ladder=())).rung.note == "no ladder"
    assert devices.rungs(replace(known.reported, slots=(slot,)))[0].startswith("m: rung 1 since ")


def test_calibration_that_was_not_applied_says_why() -> None:
    report = CalibrationReport(id="c", mode=CalibrationMode.RANGE, applied=False, reason="too few")
    assert twin.calibration(report).note == "not applied: too few"


def test_a_model_with_every_candidate_judged() -> None:
    records = workbench.ModelRecords(
        model=MODEL, jobs=(job(),), emulated=frozenset({COHORT.key}),
        releases=(fleet.Release(id="rel", model="m1", slot="m", counter=3, created_at=2.0,
                                variants={"p": INT8.bundle.variant}, reasons={"p": "it won"}),),
        rollouts=(rollout(fleet.RolloutState.COMPLETED),),
    )  # fmt: skip
    view = workbench.workbench(records)
    (fit,) = view.fits
    assert fit.emulated
    assert [(c.name, c.state.word, c.why) for c in fit.candidates] == [
        ("int8", "chosen", "fastest in budget"), ("fp32", "in budget", "ranked 2"),
        ("slow", "rejected", "too slow"),
    ]  # fmt: skip
    assert [c.measured.missing for c in fit.candidates] == [False, False, True]
    assert view.accuracy.note == "known after the first fit"
    assert view.budget == (
        "accuracy drop max: 0.01", "latency p95 max: 2 ms", "file max: 120.0 kB",
    )  # fmt: skip
    assert view.releases[0].entries == (("p", "int8", "it won"),)
    shown = draw.model(view)
    assert "emulated" in shown
    assert "too slow" in shown
    assert "waits for approval" in shown


def test_kinds_of_latency_do_not_mix_in_the_picture() -> None:
    both = workbench.place((FP32, INT8, SLOW), job())
    assert {(b.name, b.kind) for b in both} == {("fp32", "measured"), ("int8", "measured")}
    assert [b.name for b in both if b.chosen] == ["int8"]
    assert all(b.front for b in both)
    one = job(measured={INT8.bundle.variant: measured(0.3)})
    predicted = workbench.place((FP32, INT8, SLOW), one)
    assert {b.kind for b in predicted} == {"predicted"}
    assert [b.name for b in predicted if not b.front] == ["slow"]
    unlabelled = replace(FP32, accuracy=None)
    assert workbench.place((unlabelled,), one) == ()


def test_a_fit_that_runs_or_failed() -> None:
    running = job(status=fleet.JobStatus.RUNNING, choice=None, variants=(), step="prune")
    failed = job(status=fleet.JobStatus.FAILED, error="no recipe holds", choice=None)
    view = workbench.workbench(workbench.ModelRecords(model=MODEL, jobs=(running, failed)))
    shown = draw.model(view)
    assert "<progress" in shown
    assert "no recipe holds" in shown
    assert "not judged yet" in shown
    assert "fitment release create m" in shown


def test_waves_tell_their_gate() -> None:
    made = rollout(fleet.RolloutState.HALTED, waves=(0.5, 1.0), wave=1, reasons=("gate failed",))
    opened = fleet.AuditEntry(
        id="a", at=1.0, actor="controller", action="wave_opened", subject="r",
        details={"wave": "1", "gate": "1 of 1 committed"},
    )  # fmt: skip
    held = (
        deployment("a", measurement=measured(0.3)),
        deployment("b", wave=1, outcome=None, state=DeploymentState.TRIAL),
    )
    view = waves.waves(
        waves.RolloutRecords(
            rollout=made,
            deployments=held,
            audit=(opened,),
            devices={"a": device("a", emulated=True)},
        )
    )
    assert [(w.state.word, w.gate) for w in view.waves] == [
        ("done", "1 of 1 committed"), ("halted", "gate failed"),
    ]  # fmt: skip
    assert view.waves[0].committed == 1
    first, second = view.devices
    assert (first.emulated, first.state.tone) == (True, Tone.GOOD)
    assert (second.state.word, second.p50.note) == ("trial", "not measured yet")
    assert view.acts == ("resume", "revert", "cancel")
    assert "emulated" in draw.rollout(view)
    assert "halted" in draw.rollout_head(view)


def test_gates_show_their_evidence() -> None:
    held = GateReport(
        cohort="pc/h/s", gate="failures", verdict=GateVerdict.HOLDS, reason="nothing",
        limit=0.02, samples=40, waiting=3, missing=1, estimate=0.025, low=0.001, high=0.13,
        statistical=True, e_value=1.5, e_needed=80.0, alpha=0.0125,
    )  # fmt: skip
    silent = GateReport(
        cohort="pc/h/s", gate="energy", verdict=GateVerdict.MISSING, limit=1.1,
        reason="none of 40 devices measured it",
    )  # fmt: skip
    seen = Exposure(admitted=43, bound=50, detects=0.12, likely_bound=120)
    view = waves.waves(
        waves.RolloutRecords(
            rollout=rollout(fleet.RolloutState.RUNNING), gates=(held, silent), exposure=seen
        )
    )
    first, second = view.gates
    assert first.estimate.text == "2.50%"
    assert first.estimate.note == "0.10% to 13.00%, allowed 0.02"
    assert (first.bet.text, first.bet.note) == ("1.5", "halts at 80 (alpha 0.013)")
    assert first.samples.note == "3 under way, 1 without a number"
    assert (second.estimate.missing, second.bet.missing) == (True, True)
    assert "at most 50 in this wave" in view.exposure
    shown = draw.rollout(view)
    assert "Evidence of the gates" in shown
    assert "halted before it has reached 120" in shown


def test_what_may_be_done_follows_the_table() -> None:
    expected = {
        fleet.RolloutState.RUNNING: ("pause", "revert", "cancel"),
        fleet.RolloutState.PAUSED: ("resume", "revert", "cancel"),
        fleet.RolloutState.COMPLETED: ("revert",),
        fleet.RolloutState.AWAITING_APPROVAL: ("cancel",),
        fleet.RolloutState.CANCELLED: (),
    }
    assert {state: waves.acts(state) for state in expected} == expected


def test_triggers_and_audit_in_rows() -> None:
    trigger = fleet.Trigger(
        id="t", kind=fleet.TriggerKind.STACK_CHANGED, device="a", model="m1", cohort=COHORT,
        reason="an upgrade", created_at=1.0,
    )  # fmt: skip
    closed = replace(trigger, id="u", created_at=2.0, closed_at=3.0, result="fitted", rollout="r")
    rows = journal.trigger_rows((closed, trigger), {"m1": "m 1"})
    assert [(r.id, r.state.word) for r in rows] == [("t", "open"), ("u", "closed")]
    assert "an upgrade" in draw.triggers(rows)
    entries = [
        fleet.AuditEntry(id=str(n), at=float(n), actor="controller", action="wave_opened",
                         subject="r", details={"gate_kind": "1", "p/x_1": "k", "failed": ""})
        for n in range(journal.SHOWN_MOST + 1)
    ]  # fmt: skip
    view = journal.audit(entries, {"r": ("rollouts", "r")})
    assert view.rows[0].at == float(journal.SHOWN_MOST)
    assert view.rows[0].details == (("gate kind", "1"), ("p/x_1", "k"))
    assert 'href="/rollouts/r"' in draw.audit(view)
    assert f"the newest {journal.SHOWN_MOST} of {view.matching}" in draw.audit(view)
    assert journal.audit(entries, {}, "nothing").rows == ()
    assert journal.short("01a20cbb-425a-74dc-a71d-d364618269a7") == "01a20cbb…69a7"


def test_two_variants_beside_each_other_show_what_is_missing_as_missing() -> None:
    side = {"model": "m", "model_name": "m", "version": "1"}
    a = comparison.Side(name="fp32", variants=(FP32,), **side)  # type: ignore[arg-type]
    b = comparison.Side(name="int8", variants=(INT8,), **side)  # type: ignore[arg-type]
    taken = [
        Taken(device=name, profile="p", at=1.0, source="s", measurement=measured(ms, bundle=which))
        for name in ("d1", "d2")
        for ms, which in ((2.0, FP32.bundle.variant), (1.0, INT8.bundle.variant))
    ]
    groups, devices = comparison.compare(a.digests, b.digests, taken[:3])
    found = comparison.Comparison(a=a, b=b, groups=groups, devices=devices)
    view = beside.beside(beside.Asked(a="fp32", b="int8", names=("fp32", "int8"), found=found))
    (kind,) = view.kinds
    assert [line.name for line in kind.lines] == ["latency", "energy", "agreement", "memory"]
    assert kind.lines[0].change == Value(text="× 0.500", note="1 device")
    assert kind.lines[0].a.note == "2 devices"
    assert kind.lines[1].change == Value(text="–", note="B was not measured here; no sensor")
    assert [mark.name for mark in kind.marks] == ["latency"]
    whole, half = view.devices
    assert (whole.b is None, half.b is None) == (False, True)
    assert half.latency == Value(text="–", note="B was not measured here")
    assert half.agreement.note == "99.00 % to –: B was not measured here"
    markup = draw_beside.page(view)
    assert "not measured here" in markup
    assert 'aria-label="latency × 0.500"' in markup
    assert "<option" in markup


def test_nothing_to_compare_says_what_to_do() -> None:
    assert "fitment fit MODEL" in draw_beside.page(beside.beside(beside.Asked()))
    chosen = beside.beside(beside.Asked(names=("a", "b"), trouble="no variant <x>"))
    assert "no variant &lt;x&gt;" in draw_beside.page(chosen)


def test_a_rollout_shows_its_control_group_and_what_labels_say() -> None:
    made = fleet.Rollout(
        id="r", release="1", state=fleet.RolloutState.RUNNING, created_at=1.0,
        control_share=0.2, control_by="site", control_below=0.3, control_s=86400.0,
    )  # fmt: skip
    rows = field.slices("new", {"": field.Count(count=10, right=9, must=2, must_wrong=1)})
    view = waves.waves(waves.RolloutRecords(rollout=made, control=("a", "b"), field=rows))
    assert view.control == (
        "2 devices stay on what runs there, whole 'site' together, until 1 d after"
        " the last wave: a, b"
    )
    assert waves.control(made, ("a",)).startswith("1 device stays on what runs there")
    assert view.acts[-1] == "let-go"
    assert "Answers in the field" in draw.rollout(view)
    (row,) = view.field
    assert (row.devices, row.slice, row.accuracy.text) == ("new", "all", "90.00%")
    assert (row.labels, row.must_pass) == ("10", "1 of 2")
    over = waves.waves(waves.RolloutRecords(rollout=replace(made, control_ended_at=9.0)))
    assert "let go" in over.control
    assert "let-go" not in over.acts
