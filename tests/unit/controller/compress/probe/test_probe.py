from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.compress import execute, probe
from controller.compress.graph import model as graphs
from controller.compress.kernels import Kernel, graph
from controller.errors import FitError


@pytest.mark.parametrize(
    ("signature", "kernel"),
    [
        (
            "conv3x3:c32:k64:h28",
            Kernel(kind="conv", size=3, cin=32, cout=64, height=28),
        ),
        ("dwconv5x5:c8:k8:h7", Kernel(kind="dwconv", size=5, cin=8, cout=8, height=7)),
        ("gemm:c128:k10", Kernel(kind="gemm", size=1, cin=128, cout=10, height=1)),
    ],
)
def test_signatures_are_read_and_written(signature: str, kernel: Kernel) -> None:
    assert Kernel.parse(signature) == kernel
    assert kernel.signature == signature


@pytest.mark.parametrize("text", ["", "conv3x5:c1:k1:h1", "conv3x3:c1:k1", "gemm:c1:k1:h1", "pool"])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(FitError, match="no kernel signature"):
        Kernel.parse(text)


@pytest.mark.parametrize("signature", probe.KERNELS)
def test_a_graph_does_the_work_that_its_signature_says(signature: str) -> None:
    kernel = Kernel.parse(signature)
    (layer,) = graphs.layers(graph(kernel, seed=1))
    assert layer.macs == kernel.macs
    assert (layer.kind, layer.cin, layer.cout) == (kernel.kind, kernel.cin, kernel.cout)


@pytest.mark.parametrize("runtime", sorted(probe.SCHEMES))
def test_a_probe_bundle_is_small_complete_and_always_the_same(tmp_path: Path, runtime: str) -> None:
    one = probe.build_probe_bundle(runtime, tmp_path / "one")
    assert one.ref == probe.build_probe_bundle(runtime, tmp_path / "other").ref
    assert one.manifest.kind == "probe"
    assert one.wire_bytes < 60_000
    assert {(p.kernel, p.scheme) for p in one.manifest.probes} == {
        (kernel, scheme) for kernel in probe.KERNELS for scheme in probe.SCHEMES[runtime]
    }
    for item in one.manifest.probes:
        content = (one.folder / item.path).read_bytes()
        expected = 0.0 if item.scheme == "fp32" else 1.0
        assert execute.integer_coverage(content, runtime) == expected
        kernel = Kernel.parse(item.kernel)
        inputs = np.ones((1, *kernel.input_shape), np.float32)
        assert np.isfinite(execute.outputs(content, runtime, inputs)).all()


def test_other_runtimes_have_no_probe(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="no probe for runtime 'tpu'"):
        probe.build_probe_bundle("tpu", tmp_path)
