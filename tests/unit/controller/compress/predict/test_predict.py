from __future__ import annotations

from typing import Any

import pytest

from controller.compress.graph.model import LayerShape
from controller.compress.predict import by_layer, predict
from controller.errors import FitError
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import CostKind, Verdict

CONV, POINT, GEMM = "conv3x3:c32:k32:h28", "conv1x1:c64:k64:h14", "gemm:c128:k10"


def layer(macs: int, kind: str = "conv", size: int = 3) -> LayerShape:
    return LayerShape(
        kind=kind, kernel=(size, size), stride=1, cin=1, cout=1, height=1, width=1,
        macs=macs, name="layer",
    )  # fmt: skip


def timing(kernel: str, macs: int, p50_us: float, scheme: str = "fp32") -> KernelTiming:
    return KernelTiming(kernel=kernel, scheme=scheme, macs=macs, p50_us=p50_us, count=9)


def table(*timings: KernelTiming, **changes: Any) -> KernelTable:
    fields: dict[str, Any] = {
        "runtime": "onnx", "runtime_version": "1", "hardware": "h", "stack": "s", "threads": 1,
        "verdict": Verdict.VALID, "emulated": False, "timings": timings,
    }  # fmt: skip
    return KernelTable(**(fields | changes))


def test_a_network_is_the_sum_of_its_layers() -> None:
    known = table(timing(CONV, 10**6, 100.0))
    found = predict([layer(10**6), layer(10**6)], known, "fp32")
    assert found.value == pytest.approx(0.2)
    assert (found.unit, found.kind, found.verdict) == ("ms", CostKind.INTERPOLATED, Verdict.VALID)


@pytest.mark.parametrize(
    ("macs", "value_ms"),
    [(10**5, 0.01), (10**6, 0.05), (10**7, 0.25), (10**8, 2.5)],
)
def test_rates_are_interpolated_over_the_logarithm_of_work_and_held_beyond(
    macs: int, value_ms: float
) -> None:
    """0.1 and 0.025 ns for each multiply-accumulate, at a hundredfold of work."""
    known = table(timing(CONV, 10**5, 10.0), timing(CONV, 10**7, 250.0))
    assert predict([layer(macs)], known, "fp32").value == pytest.approx(value_ms)


def test_the_fixed_cost_of_a_run_is_paid_once_and_a_share_for_each_layer() -> None:
    known = table(timing(CONV, 10**6, 110.0), timing(GEMM, 1280, 10.0))
    one = predict([layer(10**6)], known, "fp32").value
    two = predict([layer(10**6)] * 2, known, "fp32").value
    assert one == pytest.approx(0.1 + 0.010 + 0.0025, abs=1e-4)
    assert two == pytest.approx(0.2 + 0.010 + 0.0050, abs=1e-4)


def test_a_large_product_is_not_free_when_only_a_tiny_one_was_timed() -> None:
    known = table(timing(GEMM, 1280, 10.0))
    found = predict([layer(1280 * 1000, "gemm", 1)], known, "fp32")
    assert found.value == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"emulated": True}, layer(10**6)),
        ({"verdict": Verdict.CONTENDED}, layer(10**6)),
        ({}, layer(10**6, "dwconv")),
        ({}, layer(10**6, "conv", 5)),
    ],
)
def test_what_is_not_measured_like_for_like_is_an_estimate(
    changes: dict[str, Any], asked: LayerShape
) -> None:
    known = table(timing(CONV, 10**6, 100.0), **changes)
    found = predict([asked], known, "fp32")
    assert found.kind is CostKind.ESTIMATED
    assert found.value == pytest.approx(0.1)


def test_windows_are_told_apart() -> None:
    known = table(timing(CONV, 10**6, 100.0), timing(POINT, 10**6, 30.0))
    assert predict([layer(10**6, "conv", 1)], known, "fp32").value == pytest.approx(0.03)


def test_a_scheme_that_was_not_timed_is_refused() -> None:
    with pytest.raises(FitError, match="no timing in scheme 'u8s8'"):
        predict([layer(1)], table(timing(CONV, 10**6, 1.0)), "u8s8")
    with pytest.raises(FitError, match="no heavy layers"):
        predict([], table(timing(CONV, 10**6, 1.0)), "fp32")


def test_layers_and_the_fixed_cost_add_up_to_the_network() -> None:
    known = table(timing("conv3x3:c1:k1:h2", 1_000, 5.0), timing(CONV, 10**6, 100.0))
    layers = [layer(10**6), layer(3 * 10**5)]
    fixed, each = by_layer(layers, known, "fp32")
    assert fixed == pytest.approx(0.005)
    assert each[0] > each[1] > 0
    assert fixed + sum(each) == pytest.approx(predict(layers, known, "fp32").value)
