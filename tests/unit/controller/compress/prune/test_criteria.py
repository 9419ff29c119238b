"""Structured criteria: by hand where that can be done, else against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from controller.compress.passes.channels import ChannelTracer, Slot, Space
from controller.compress.prune.criteria import CRITERIA, Material, thinet
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import Chain, Dense, Residual, trained

INPUTS = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(24) % 5


class Points(nn.Module):
    """Three 1x1 filters of two weights, a normalization, one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
        self.b = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.n(self.a(x)))


def points(filters: list[list[float]]) -> tuple[nn.Module, Space]:
    module = Points().eval()
    module.a.weight.data = torch.tensor(filters, dtype=torch.float32)[:, :, None, None]
    space = next(s for s in ChannelTracer(module, INPUTS[:2, :2]).spaces() if "a" in s.producers)
    return module, space


def scored(name: str, filters: list[list[float]]) -> list[float]:
    return CRITERIA[name].scores(*points(filters), Material()).tolist()


def test_l1_is_the_sum_of_magnitudes() -> None:
    """3, 4 and 5, their mean 4."""
    assert scored("l1", [[1, -2], [0, 4], [-2.5, 2.5]]) == pytest.approx([3 / 4, 1, 5 / 4])


def test_l2_is_the_length() -> None:
    """5, 13 and 0, their mean 6: L1 would put 7 and 17."""
    assert scored("l2", [[3, -4], [5, 12], [0, 0]]) == pytest.approx([5 / 6, 13 / 6, 0])


def test_fpgm_drops_what_lies_between_the_others() -> None:
    """On a line at 0, 4 and 10 the sums of distances are 14, 10 and 16, their mean 40/3."""
    found = scored("fpgm", [[0, 0], [4, 0], [10, 0]])
    assert found == pytest.approx([14 * 3 / 40, 10 * 3 / 40, 16 * 3 / 40])


def test_bn_scale_is_the_normalizations_factor() -> None:
    module, space = points([[9, 9], [1, 1], [1, 1]])
    module.n.weight.data = torch.tensor([-0.5, 1.0, 1.5])  # type: ignore[union-attr]
    found = CRITERIA["bn_scale"].scores(module, space, Material())
    assert found.tolist() == pytest.approx([0.5, 1.0, 1.5])


def test_bn_scale_without_normalization_is_l1() -> None:
    module, space = points([[1, -2], [0, 4], [-2.5, 2.5]])
    space.norms.clear()
    found = CRITERIA["bn_scale"].scores(module, space, Material())
    assert found.tolist() == pytest.approx([3 / 4, 1, 5 / 4])


def test_random_follows_the_seed() -> None:
    one, same, other = (
        CRITERIA["random"].scores(*points([[1, 1]] * 3), Material(seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def _space(module: nn.Module, producer: str) -> Space:
    spaces = ChannelTracer(module, INPUTS[:2]).spaces()
    return next(s for s in spaces if producer in s.producers)


def _with_gates(module: nn.Module, space: Space, gates: torch.Tensor) -> torch.Tensor:
    """Outputs when every reader sees its channels times ``gates``; double precision."""
    handles = []
    for name in {slot.name for slot in space.consumers}:
        slots = [slot for slot in space.consumers if slot.name == name]

        def gated(_layer: Any, arguments: tuple[torch.Tensor, ...], slots: Any = slots) -> Any:
            values = arguments[0].clone()
            for slot in slots:
                end = slot.offset + space.size * slot.factor
                wide = gates.repeat_interleave(slot.factor)
                wide = wide.reshape([1, -1] + [1] * (values.ndim - 2))
                values[:, slot.offset : end] = values[:, slot.offset : end] * wide
            return (values,)

        handles.append(module.get_submodule(name).register_forward_pre_hook(gated))
    try:
        return module(INPUTS.double())
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("kind", "producer"),
    [(Chain, "a"), (Chain, "b"), (Residual, "stem"), (Residual, "up"), (Dense, "stem")],
)
def test_taylor_is_the_squared_slope_of_the_loss_along_each_channels_gate(
    kind: type[nn.Module], producer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = trained(kind()).double()
    space = _space(trained(kind()), producer)
    step, expected = 1e-7, []
    for channel in range(space.size):
        losses = []
        for sign in (1, -1):
            gates = torch.ones(space.size, dtype=torch.float64)
            gates[channel] += sign * step
            with torch.no_grad():
                outputs = _with_gates(module, space, gates)
            losses.append(functional.cross_entropy(outputs, LABELS))
        expected.append(((losses[0] - losses[1]) / (2 * step)) ** 2)
    monkeypatch.setattr("controller.compress.prune.criteria.taylor.BATCH", len(INPUTS))
    seen = Material(inputs=INPUTS.double(), labels=LABELS)
    found = CRITERIA["taylor"].scores(module, space, seen)
    assert torch.allclose(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-12)


def test_taylor_averages_the_squares_of_batches() -> None:
    """Not the square of the average: three batches of eight."""
    module, taylor = trained(Chain()), CRITERIA["taylor"]
    space = _space(module, "b")
    whole = taylor.scores(module, space, Material(inputs=INPUTS, labels=LABELS))
    parts = [
        taylor.scores(module, space, Material(inputs=INPUTS[i : i + 8], labels=LABELS[i : i + 8]))
        for i in (0, 8, 16)
    ]
    assert torch.allclose(whole, torch.stack(parts).mean(0), rtol=1e-4)


def test_taylor_without_classes_takes_the_outputs_energy() -> None:
    """With one linear reader the slope of ½‖Wz‖² along gate c is the mean of (Wz)·(W_c z_c)."""
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)).eval()
    x = torch.tensor([[1.0, -2.0]])
    z, weights = module[0](x)[0], module[1].weight
    expected = ((weights @ z)[:, None] * weights * z).sum(0) ** 2
    space = Space(size=3, producers=["0"], consumers=[Slot("1")])
    found = CRITERIA["taylor"].scores(module, space, Material(inputs=x))
    assert torch.allclose(found, expected.detach(), rtol=1e-4)


def _contributions(module: nn.Module, space: Space, slot: Slot, inputs: torch.Tensor) -> np.ndarray:
    """What each channel adds to every output of a reader: [samples · outputs, channels]."""
    layer: Any = module.get_submodule(slot.name)
    caught: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _l, arguments: caught.append(arguments[0]))
    columns = []
    with torch.no_grad():
        module(inputs)
        handle.remove()
        bias = layer(torch.zeros_like(caught[0]))
        for channel in range(space.size):
            alone = torch.zeros_like(caught[0])
            start = slot.offset + channel * slot.factor
            part = slice(start, start + slot.factor)
            alone[:, part] = caught[0][:, part]
            columns.append((layer(alone) - bias).flatten())
    return torch.stack(columns, dim=1).double().numpy()


READERS = [(Chain, "a", 0), (Chain, "b", 0), (Residual, "stem", 0), (Dense, "stem", 1)]


@pytest.mark.parametrize(("kind", "producer", "reader"), READERS)
def test_thinets_gram_matrix_is_that_of_the_contributions(
    kind: type[nn.Module], producer: str, reader: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinet, "PLACES", 10**6)  # every place instead of some
    module = trained(kind())
    space = _space(module, producer)
    slot = space.consumers[reader]
    z = _contributions(module, space, slot, INPUTS)
    found = thinet.gram(module, slot, space.size, Material(inputs=INPUTS)).numpy()
    assert np.allclose(found, z.T @ z, rtol=1e-3, atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"padding": "same"}], ids=str)
def test_windows_are_those_of_the_convolution(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinet, "PLACES", 10**6)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, (3, 1), **options)).eval()
    space = Space(size=4, producers=["0"], consumers=[Slot("1")])
    z = _contributions(module, space, Slot("1"), INPUTS)
    found = thinet.gram(module, Slot("1"), 4, Material(inputs=INPUTS)).numpy()
    assert np.allclose(found, z.T @ z, rtol=1e-3, atol=1e-3 * np.abs(found).max())


def _greedy(z: np.ndarray) -> list[int]:
    """Algorithm 1 as the paper writes it, on the samples themselves."""
    removed: list[int] = []
    while len(removed) < z.shape[1]:
        free = [c for c in range(z.shape[1]) if c not in removed]
        removed.append(min(free, key=lambda c: float((z[:, [*removed, c]].sum(1) ** 2).sum())))
    return removed


def test_thinet_removes_in_the_papers_greedy_order() -> None:
    z = np.random.default_rng(5).normal(size=(60, 7)) + np.linspace(-0.4, 0.4, 7)
    order = thinet.removal_order(torch.from_numpy(z.T @ z))
    assert order.argsort().tolist() == _greedy(z)


def test_thinet_finds_channels_that_cancel() -> None:
    """z_1 = −z_2, each large: together they add nothing, and only a joint criterion sees it."""
    z = np.random.default_rng(6).normal(size=(50, 4))
    z[:, 1] = 1.2 * z[:, 0]
    z[:, 2] = -1.2 * z[:, 0]
    z[:, 3] *= 2
    order = thinet.removal_order(torch.from_numpy(z.T @ z))
    best = min(itertools.combinations(range(4), 3), key=lambda t: (z[:, t].sum(1) ** 2).sum())
    assert set(order.argsort()[:3].tolist()) == set(best) == {0, 1, 2}


def test_thinets_factors_are_those_of_least_squares() -> None:
    z = np.random.default_rng(7).normal(size=(80, 6))
    kept = [0, 2, 5]
    expected = np.linalg.lstsq(z[:, kept], z.sum(1), rcond=None)[0]
    found = thinet.rescale(torch.from_numpy(z.T @ z), torch.tensor(kept))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize(("kind", "producer"), [(Chain, "b"), (Residual, "up"), (Dense, "stem")])
def test_thinets_mending_brings_the_readers_outputs_nearer(
    kind: type[nn.Module], producer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinet, "PLACES", 10**6)
    module, seen = trained(kind()), Material(inputs=INPUTS)
    space = _space(module, producer)
    scores = CRITERIA["thinet"].scores(module, space, seen)
    kept = scores.argsort(descending=True)[: space.size // 2].sort().values
    slot = space.consumers[-1]
    before = _contributions(module, space, slot, INPUTS)
    CRITERIA["thinet"].mend(module, space, kept, seen)
    after = _contributions(module, space, slot, INPUTS)
    wanted = before.sum(1)
    plain = ((wanted - before[:, kept].sum(1)) ** 2).sum()
    mended = ((wanted - after[:, kept].sum(1)) ** 2).sum()
    best = np.linalg.lstsq(before[:, kept], wanted, rcond=None)[1]
    assert mended < plain
    assert mended == pytest.approx(float(best[0]), rel=1e-2)


def test_dead_channels_go_first_and_break_nothing() -> None:
    module = trained(Chain())
    module.a.weight.data[3] = 0.0  # type: ignore[union-attr,index,operator]
    module.na.bias.data[3] = module.na.running_mean[3] = 0.0  # type: ignore[union-attr,index,operator]
    space, seen = _space(module, "a"), Material(inputs=INPUTS, labels=LABELS)
    for name in ("l1", "l2", "taylor", "thinet"):
        scores = CRITERIA[name].scores(module, space, seen)
        assert int(scores.argmin()) == 3, name
    CRITERIA["thinet"].mend(module, space, torch.arange(8), seen)
    assert torch.isfinite(module.b.weight).all()  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize("name", ["taylor", "thinet"])
def test_what_needs_inputs_says_so(name: str) -> None:
    module = trained(Chain())
    with pytest.raises(FitError, match=f"the {name} criterion needs inputs"):
        CRITERIA[name].scores(module, _space(module, "a"), Material())
