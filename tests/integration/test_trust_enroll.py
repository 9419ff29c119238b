"""Enrolment and renewal against a real controller on loopback, and who is kept out."""

from __future__ import annotations

import json
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent import durable
from agent.jobs import EnrollJob, RenewJob, SubmitJob
from agent.workers import enroll, renew, submit
from agent.workers.child import JobError
from agent.workers.keys import check_issued, load_key
from controller.trust import Trust
from fitment.core.deployment import CalibrationMode, CalibrationReport
from fitment.core.kernels import KernelTable
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict
from fitment.wire import codec
from tests.integration.trust_server import Controller


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    running = Controller(tmp_path / "controller")
    yield running
    running.stop()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "device" / "keys"


def job(controller: Controller, keys: Path, device: str = "cam-1") -> EnrollJob:
    return EnrollJob(
        result="",
        controller=controller.enroll_address,
        token=controller.token(),
        device=device,
        keys=str(keys),
    )


def failure(enroll_job: EnrollJob) -> JobError:
    with pytest.raises(JobError) as caught:
        enroll.handle(enroll_job)
    assert not (Path(enroll_job.keys) / "enrolment.json").exists()
    return caught.value


def renew_job(controller: Controller, keys: Path) -> RenewJob:
    return RenewJob(
        result="",
        connection=controller.connection(keys),
        enroll_address=controller.enroll_address,
        device="cam-1",
        keys=str(keys),
    )


def serial(keys: Path) -> int:
    return x509.load_pem_x509_certificate((keys / "device.crt").read_bytes()).serial_number


def test_a_token_makes_a_stranger_a_device(controller: Controller, keys: Path) -> None:
    result = enroll.handle(job(controller, keys))
    assert (result.device, result.mqtt) == ("cam-1", "")
    assert result.gateway == controller.gateway_address
    assert {path.name for path in keys.iterdir()} == {
        "device.key", "device.crt", "ca.crt", "tuf_root.json", "director.pub", "enrolment.json",
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    record = json.loads((keys / "enrolment.json").read_bytes())
    assert (record["device"], record["enroll"]) == ("cam-1", controller.enroll_address)
    assert record["expires_unix"] == result.expires_unix
    raw = bytes.fromhex((keys / "director.pub").read_text())
    assert raw == controller.trust.director.public_raw


def test_the_controller_may_choose_the_name(controller: Controller, keys: Path) -> None:
    assert enroll.handle(job(controller, keys, device="")).device == "dev-1"


def test_a_key_that_is_there_is_kept(controller: Controller, keys: Path) -> None:
    failure(replace(job(controller, keys), token=controller.token()[:-64] + "0" * 64))
    enroll.handle(job(controller, keys))
    before = (keys / "device.key").read_bytes()
    enroll.handle(job(controller, keys, device="cam-2"))
    assert (keys / "device.key").read_bytes() == before


def test_a_ca_file_serves_as_well(controller: Controller, keys: Path) -> None:
    ca = str(controller.trust.files.ca)
    assert enroll.handle(replace(job(controller, keys), ca=ca)).device == "cam-1"


def test_a_used_token_is_refused(controller: Controller, keys: Path, tmp_path: Path) -> None:
    first = job(controller, keys)
    enroll.handle(first)
    error = failure(replace(first, keys=str(tmp_path / "second"), device="cam-2"))
    assert (error.code, error.permanent) == ("refused", True)
    assert "used" in str(error)


def test_an_expired_or_unknown_token_is_refused(controller: Controller, keys: Path) -> None:
    expired = job(controller, keys)
    controller.book.tokens = dict.fromkeys(controller.book.tokens, "expired")
    assert "expired" in str(failure(expired))
    controller.book.tokens.clear()
    error = failure(expired)
    assert error.code == "refused"
    assert "unknown" in str(error)


def test_a_taken_name_is_refused(controller: Controller, keys: Path, tmp_path: Path) -> None:
    enroll.handle(job(controller, keys))
    error = failure(job(controller, tmp_path / "second"))
    assert (error.code, error.permanent) == ("conflict", True)
    assert "'cam-1' is taken" in str(error)


@pytest.mark.parametrize("device", ["ctl.1", "a/b", "x" * 65])
def test_impossible_names_are_refused_at_home(
    controller: Controller, keys: Path, device: str
) -> None:
    assert failure(job(controller, keys, device=device)).code == "name"


def test_another_controller_is_not_trusted(
    controller: Controller, keys: Path, tmp_path: Path
) -> None:
    """Somebody answers at the address, with a CA of the same name but another key."""
    other = Controller(tmp_path / "impostor")
    try:
        error = failure(replace(job(controller, keys), controller=other.enroll_address))
        assert (error.code, error.permanent) == ("wrong_ca", True)
        assert not other.book.names
        error = failure(replace(job(controller, keys), ca=str(other.trust.files.ca)))
        assert error.code == "wrong_ca"
    finally:
        other.stop()


def test_a_copied_ca_does_not_help_an_impostor(
    controller: Controller, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA certificate is public: who carries it in a leaf of his own still lacks its key."""
    real = controller.trust.ca.certificate_pem
    monkeypatch.setattr(
        "controller.trust.certificates._carried_ca",
        _carrying(real),
    )
    impostor = Controller(tmp_path / "impostor")
    try:
        error = failure(replace(job(controller, keys), controller=impostor.enroll_address))
        assert error.code == "unavailable"
        assert not impostor.book.names
    finally:
        impostor.stop()


def _carrying(ca_pem: bytes) -> object:
    from controller.trust import certificates

    real = certificates._carried_ca
    stolen = x509.load_pem_x509_certificate(ca_pem)
    return lambda _own: real(stolen)


def test_nobody_there(controller: Controller, keys: Path) -> None:
    stopped = job(controller, keys)
    controller.stop()
    error = failure(stopped)
    assert (error.code, error.permanent) == ("unavailable", False)
    assert controller.enroll_address in str(error)


def test_a_certificate_is_renewed_for_the_same_key(controller: Controller, keys: Path) -> None:
    enrolled = enroll.handle(job(controller, keys))
    key, before = (keys / "device.key").read_bytes(), serial(keys)
    renewed = renew.handle(renew_job(controller, keys))
    assert renewed.expires_unix > enrolled.expires_unix
    assert (keys / "device.key").read_bytes() == key
    assert serial(keys) != before
    record = json.loads((keys / "enrolment.json").read_bytes())
    assert record["expires_unix"] == renewed.expires_unix
    renew.handle(renew_job(controller, keys))  # the new one works


def test_the_power_goes_around_every_step_of_a_renewal(
    controller: Controller, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk holds then: the old certificate or the new one, and it renews."""
    enroll.handle(job(controller, keys))
    shots: list[Path] = []

    def keep() -> None:
        shots.append(tmp_path / f"shot-{len(shots)}")
        shutil.copytree(keys, shots[-1])

    def step(_name: str, _path: Path, act: Callable[[], Any]) -> Any:
        keep()
        found = act()
        keep()
        return found

    before = serial(keys)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "step", step)
        renew.handle(renew_job(controller, keys))
    after = serial(keys)
    assert len(shots) >= 24  # three files, four steps each
    seen = set()
    for shot in shots:
        seen.add(serial(shot))
        certificate, authority = ((shot / name).read_bytes() for name in ("device.crt", "ca.crt"))
        check_issued(certificate, authority, load_key(shot))
        assert json.loads((shot / "enrolment.json").read_bytes())["device"] == "cam-1"
    assert seen == {before, after}
    for shot in shots[::6]:
        renew.handle(renew_job(controller, shot))
        assert serial(shot) not in seen
        assert not list(shot.glob(".*.new"))


def test_a_device_from_the_shelf_recovers_by_its_key(controller: Controller, keys: Path) -> None:
    controller.days = -0.01
    enrolled = enroll.handle(job(controller, keys))
    assert enrolled.expires_unix < time.time()
    renewed = renew.handle(renew_job(controller, keys))
    assert renewed.expires_unix > time.time()


def test_a_revoked_device_stays_out_of_both_doors(controller: Controller, keys: Path) -> None:
    enroll.handle(job(controller, keys))
    controller.trust.revoke(serial(keys), at=0)
    with pytest.raises(JobError, match="revoked") as caught:
        renew.handle(renew_job(controller, keys))
    assert (caught.value.code, caught.value.permanent) == ("refused", True)


def test_a_thief_of_the_certificate_cannot_recover(
    controller: Controller, keys: Path, tmp_path: Path
) -> None:
    controller.days = -0.01
    enroll.handle(job(controller, keys))
    thief = tmp_path / "thief"
    enroll.handle(job(controller, thief, device="cam-2"))
    (thief / "device.crt").write_bytes((keys / "device.crt").read_bytes())
    with pytest.raises(JobError) as caught:
        renew.handle(renew_job(controller, thief))
    assert caught.value.code == "refused"
    assert "proof" in str(caught.value)


def test_renewing_without_anybody_there_is_temporary(controller: Controller, keys: Path) -> None:
    enroll.handle(job(controller, keys))
    before = serial(keys)
    controller.stop()
    with pytest.raises(JobError) as caught:
        renew.handle(renew_job(controller, keys))
    assert (caught.value.code, caught.value.permanent) == ("unavailable", False)
    assert serial(keys) == before


def test_a_foreign_certificate_does_not_get_in(
    controller: Controller, keys: Path, tmp_path: Path
) -> None:
    enroll.handle(job(controller, keys))
    other = Trust.create(tmp_path / "other", tmp_path / "other-offline")
    csr = enroll.keys.make_csr(enroll.keys.load_key(keys), "cam-1")
    foreign = other.ca.issue_device(csr, "cam-1", 30)
    (keys / "device.crt").write_bytes(foreign.pem)
    with pytest.raises(JobError) as caught:
        submit.handle(
            SubmitJob(
                result="",
                connection=controller.connection(keys),
                calibration=_calibration(),
            )
        )
    assert caught.value.code == "unavailable"
    assert not controller.book.submitted


def test_measurements_tables_and_calibrations_arrive(
    controller: Controller, keys: Path, tmp_path: Path
) -> None:
    enroll.handle(job(controller, keys))
    overlay = tmp_path / "overlay.json"
    overlay.write_bytes(b'{"patch":1}')
    measured = Measurement(
        id="m1",
        bundle="sha256:ab",
        runtime="onnx",
        threads=1,
        verdict=Verdict.VALID,
        energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor"),
    )
    table = KernelTable(
        runtime="onnx",
        runtime_version="1.20",
        hardware="h",
        stack="s",
        threads=1,
        verdict=Verdict.VALID,
        emulated=False,
    )
    sent = SubmitJob(
        result="",
        connection=controller.connection(keys),
        study="s1",
        deployment="d1",
        measurement=measured,
        kernels=table,
        calibration=_calibration(),
        overlay=str(overlay),
    )
    assert submit.handle(sent).accepted
    first, second = controller.book.submitted
    assert codec.from_message(Measurement, first.measurement) == measured
    assert codec.from_message(KernelTable, first.kernels) == table
    assert codec.from_message(CalibrationReport, second.calibration) == _calibration()
    assert (first.study, second.deployment, second.overlay) == ("s1", "d1", b'{"patch":1}')


def test_an_empty_submission_is_refused_at_home(controller: Controller, keys: Path) -> None:
    with pytest.raises(JobError, match="nothing to submit"):
        submit.handle(SubmitJob(result="", connection=controller.connection(keys)))
    with pytest.raises(JobError, match="cannot read the overlay"):
        submit.handle(
            SubmitJob(
                result="",
                connection=controller.connection(keys),
                calibration=_calibration(),
                overlay=str(keys / "nothing"),
            )
        )


def _calibration() -> CalibrationReport:
    return CalibrationReport(
        id="c1", mode=CalibrationMode.RANGE, applied=True, reason="drift", gain=1.5
    )
