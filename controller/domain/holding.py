"""The control group of a rollout: devices that stay on what they run, to compare with.

Whole clusters (a label such as ``site``) are held or not, since what meets one device of a site
meets all of them, and a neighbour with the new release would be no control. Who is held is drawn
once, by a hash with the release's id: clusters get a place from 0 to 1, and those below a mark are
held. So a preview shows the group that the rollout will have; who joins later is held by the same
mark, and nobody changes sides.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable

from controller.domain.fleet import Device, Rollout


def cluster_of(rollout: Rollout, device: Device) -> str:
    """What is held or not as one; a device without the label is one of its own."""
    given = device.labels.get(rollout.control_by, "") if rollout.control_by else ""
    return f"{rollout.control_by}={given}" if given else f"device {device.name}"


def is_held(rollout: Rollout, device: Device) -> bool:
    """Whether a device stays on what it runs for now."""
    if not rollout.control_below or rollout.control_ended_at:
        return False
    return belongs(rollout, device)


def belongs(rollout: Rollout, device: Device) -> bool:
    """Whether a device is in the control group, or was until it ended."""
    return place(rollout.release, cluster_of(rollout, device)) < rollout.control_below


def place(salt: str, cluster: str) -> float:
    """Where a cluster stands in one rollout's draw, from 0 on and below 1."""
    drawn = hashlib.sha256(f"{salt}\n{cluster}".encode()).digest()
    return int.from_bytes(drawn[:6], "big") / 2**48


def mark(rollout: Rollout, devices: Iterable[Device]) -> float:
    """Below which place clusters are held: so many that their devices come closest to the share.

    At least one cluster is held and at least one is not.

    Raises:
        ValueError: there is but one cluster, of which nothing could be held back.
    """
    sizes: dict[str, int] = {}
    for device in devices:
        cluster = cluster_of(rollout, device)
        sizes[cluster] = sizes.get(cluster, 0) + 1
    if len(sizes) < 2:
        raise ValueError("a control group needs two clusters at least")
    wanted = rollout.control_share * sum(sizes.values())
    order = sorted((place(rollout.release, cluster), size) for cluster, size in sizes.items())
    best, found, held = math.inf, 0.0, 0
    for (_, size), (after, _) in itertools.pairwise(order):
        held += size
        if abs(held - wanted) < best:
            best, found = abs(held - wanted), after
    return found


def ends_at(rollout: Rollout, over_at: float) -> float:
    """When the control group gets the release: so long after its last wave was over."""
    return over_at + rollout.control_s
