"""Which release counters devices said that they run, read of each device when it was written.

A fleet that comes back to a restored store asks for the highest of them with every device.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from controller.domain import fleet
from controller.store.base import Store


@dataclass(slots=True)
class Counters:
    """Counters by slot, of all that devices say or have said since the start."""

    _store: Store | None = None
    _written: set[str] = field(default_factory=set)
    _by_slot: dict[str, set[int]] = field(default_factory=dict)

    def of(self, store: Store, slot: str) -> AbstractSet[int]:
        """Counters of one slot."""
        if self._store is not store:
            self._store, self._written, self._by_slot = store, set(), {}
            store.devices.watch(self._written.add)
            self._read(store.devices.find())
        elif self._written:
            found = [store.devices.get(name) for name in self._written]
            self._written.clear()
            self._read(device for device in found if device is not None)
        return self._by_slot.get(slot, set())

    def _read(self, devices: Iterable[fleet.Device]) -> None:
        for device in devices:
            for slot in device.reported.slots if device.reported is not None else ():
                self._by_slot.setdefault(slot.slot, set()).add(slot.counter)
