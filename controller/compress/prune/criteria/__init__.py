"""All structured criteria, by name."""

from __future__ import annotations

from controller.compress.prune.criteria.base import Criterion, Material
from controller.compress.prune.criteria.bn_scale import BnScale
from controller.compress.prune.criteria.fpgm import Fpgm
from controller.compress.prune.criteria.l1 import L1
from controller.compress.prune.criteria.l2 import L2
from controller.compress.prune.criteria.random import Random
from controller.compress.prune.criteria.taylor import Taylor
from controller.compress.prune.criteria.thinet import ThiNet

__all__ = ["CRITERIA", "Criterion", "Material"]

CRITERIA: dict[str, Criterion] = {
    c.name: c for c in (L1(), L2(), BnScale(), Fpgm(), Taylor(), ThiNet(), Random())
}
