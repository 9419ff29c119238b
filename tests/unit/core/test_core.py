"""The pure types: plain JSON, digests, histograms, kernel tables."""

from __future__ import annotations

import pytest

from fitment.core import deployment, digest, kernels, plain
from fitment.core.histogram import Histogram
from fitment.core.measurement import Verdict


def assignment() -> deployment.Assignment:
    bundle = deployment.BundleRef(
        variant="v", name="int8", archive="a", archive_bytes=3, target="bundles/v.tar.xz"
    )
    return deployment.Assignment(
        device="d", deployment="1", rollout="2", release="3", release_target="releases/3.json",
        slot="s", counter=4, bundle=bundle,
    )  # fmt: skip


def test_a_newer_writer_is_understood() -> None:
    written = plain.to_plain(assignment()) | {"from_the_future": {"x": 1}}
    assert plain.from_plain(deployment.Assignment, written) == assignment()


def test_an_older_writer_gets_defaults() -> None:
    written = plain.to_plain(assignment())
    del written["gates"], written["trial_s"]
    assert plain.from_plain(deployment.Assignment, written) == assignment()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counter": "four"}, r"Assignment\.counter: expected"),
        ({"counter": True}, r"Assignment\.counter: expected int, got bool"),
        ({"bundle": 3}, r"Assignment\.bundle: expected"),
        ({"calibration": {"mode": "magic"}}, r"calibration\.mode: 'magic' is not one of"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(plain.PlainError, match=message):
        plain.from_plain(deployment.Assignment, plain.to_plain(assignment()) | change)


def test_a_missing_key_is_named() -> None:
    written = plain.to_plain(assignment())
    del written["device"]
    with pytest.raises(plain.PlainError, match="the key 'device' is missing"):
        plain.from_plain(deployment.Assignment, written)


def test_equal_values_have_equal_digests() -> None:
    assert digest.digest_of({"b": 1, "a": [2, 3]}) == digest.digest_of({"a": (2, 3), "b": 1})
    assert digest.digest_of({"a": 1}) != digest.digest_of({"a": 1.5})


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "A" * 64, "sha256:../../etc/passwd"])
def test_only_digests_become_file_names(text: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        digest.hex_of(text)


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        digest.canonical({"x": float("nan")})


def test_histograms_merge_by_adding() -> None:
    one = Histogram(low=0.0, high=4.0, counts=(1, 0, 2, 1))
    two = Histogram(low=0.0, high=4.0, counts=(0, 4, 0, 0))
    assert one.merge(two).counts == (1, 4, 2, 1)
    with pytest.raises(ValueError, match="different edges"):
        one.merge(Histogram(low=0.0, high=5.0, counts=(0, 0, 0, 0)))


@pytest.mark.parametrize(("share", "value"), [(0.25, 1.0), (0.5, 2.5), (1.0, 4.0)])
def test_quantiles_are_linear_within_a_bin(share: float, value: float) -> None:
    assert Histogram(low=0.0, high=4.0, counts=(1, 0, 2, 1)).quantile(share) == pytest.approx(value)


def timing(kernel: str, scheme: str, p50_us: float) -> kernels.KernelTiming:
    return kernels.KernelTiming(kernel=kernel, scheme=scheme, macs=1, p50_us=p50_us, count=9)


def test_schemes_are_ranked_against_fp32_of_the_same_kernel() -> None:
    table = kernels.KernelTable(
        runtime="onnx", runtime_version="1", hardware="h", stack="s", threads=1,
        verdict=Verdict.VALID, emulated=False,
        timings=(
            timing("a", "fp32", 100.0), timing("a", "u8s8", 50.0), timing("a", "s8s8", 130.0),
            timing("b", "fp32", 10.0), timing("b", "u8s8", 2.0), timing("c", "u8u8", 1.0),
        ),
    )  # fmt: skip
    ranked = table.schemes_by_speed()
    assert [scheme for scheme, _ in ranked] == ["u8s8", "fp32", "s8s8"]
    assert ranked[0][1] == pytest.approx((0.5 * 0.2) ** 0.5)
