"""The probe bundle: tiny graphs by which a device shows how fast each scheme really is.

Every kernel comes in every scheme that the runtime has, made by the same quantizers and emitters
as real variants, so that what is timed is what would be shipped. Weights repeat, which costs no
time to run and nothing on the wire.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from controller.compress import bundle
from controller.compress.bundle import BuiltBundle
from controller.compress.kernels import Kernel, graph
from controller.compress.quantize import dynamic, ranges, static
from controller.compress.toolchains import litert
from controller.errors import FitError
from fitment.core.bundle import BundleManifest, ProbeGraph

KERNELS = (
    "conv3x3:c32:k32:h28",
    "conv3x3:c64:k64:h14",
    "conv3x3:c128:k128:h7",
    "conv1x1:c64:k64:h14",
    "dwconv3x3:c64:k64:h14",
    "gemm:c128:k10",
    "gemm:c512:k512",
)
"""A spread of channels and sizes around what small vision networks are made of; the smallest
shows what one run costs beside its arithmetic."""

SCHEMES = {
    "onnx": ("fp32", "u8s8", "s8s8", "u8u8", "dynamic"),
    "litert": ("fp32", "s8s8"),
}
_FORMATS = {"onnx": "onnx", "litert": "tflite"}
_CALIBRATION = 8
_SEED = 7


def build_probe_bundle(runtime: str, out_dir: Path) -> BuiltBundle:
    """Write the probe bundle of a runtime ("onnx" or "litert"); always the same bytes.

    Raises:
        FitError: there is no probe for that runtime.
    """
    if runtime not in SCHEMES:
        raise FitError(f"no probe for runtime '{runtime}', known: {', '.join(SCHEMES)}")
    suffix = _FORMATS[runtime]
    files: dict[str, bytes] = {}
    probes = []
    for number, signature in enumerate(KERNELS):
        kernel = Kernel.parse(signature)
        plain = graph(kernel, seed=_SEED + number)
        for scheme in SCHEMES[runtime]:
            model = _in_scheme(plain, kernel, scheme)
            path = f"probes/{signature.replace(':', '_')}.{scheme}.{suffix}"
            files[path] = (
                model.SerializeToString(deterministic=True)
                if runtime == "onnx"
                else litert.convert(model)
            )
            probes.append(ProbeGraph(path=path, kernel=signature, scheme=scheme, macs=kernel.macs))
    manifest = BundleManifest(
        kind="probe",
        name=f"probe-{runtime}",
        format=suffix,
        runtime=runtime,
        scheme="",
        probes=tuple(probes),
    )
    return bundle.write(manifest, files, out_dir)


def _in_scheme(plain: onnx.ModelProto, kernel: Kernel, scheme: str) -> onnx.ModelProto:
    if scheme == "fp32":
        return plain
    if scheme == "dynamic":
        return dynamic.quantize(plain)
    generator = np.random.default_rng(_SEED)
    inputs = generator.standard_normal((_CALIBRATION, *kernel.input_shape)).astype(np.float32)
    found = ranges.collect(plain, np.maximum(inputs, 0.0))
    return static.quantize(plain, found, scheme=scheme)
