"""What a device is, as four separate hashes.

They are apart because each leads to something else: a changed *chassis* is a service note, a
changed *hardware* or *stack* hash makes the device a member of another cohort and asks for a
new fit, a changed *condition* only tags measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fitment.core import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """Facts of one kind and their hash (canonical JSON of ``facts``)."""

    hash: str
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Facet:
        """Hash ``facts``."""
        return cls(hash=digest.digest_of(dict(facts)), facts=dict(facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A device, as it sees itself.

    Keys that matching relies on, when known. hardware: ``machine`` (``x86_64``, ``aarch64``),
    ``model`` (device-tree model), ``compatible`` (space separated), ``cpu`` , ``cpu_features``
    (space separated, sorted), ``memory_class_mib`` (power of two), ``accelerators``,
    ``translated_on`` (under an emulator: the host's machine). stack:
    ``runtime.<name>`` (major.minor version) and ``runtime.<name>.<setting>``. condition:
    ``governor``, ``power_mode``, ``cores_online``. chassis: ``serial_hash``, ``board``.
    """

    chassis: Facet
    hardware: Facet
    stack: Facet
    condition: Facet
    emulated: bool = False
    """A host that stands in for a board: its timings never enter that board's kernel table."""

    @property
    def translated_on(self) -> str:
        """The machine on which an emulator translates this device's instructions, or nothing.

        Then no time that is taken there tells of any device.
        """
        return self.hardware.facts.get("translated_on", "")

    def runtimes(self) -> tuple[str, ...]:
        """Names of the runtimes that the stack facts list (``onnx``, ``litert``, ``tflite``)."""
        names = (key.split(".")[1] for key in self.stack.facts if key.startswith("runtime."))
        return tuple(sorted(set(names)))
