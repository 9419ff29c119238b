"""Structured pruning: removing dead channels changes nothing, and unknowns are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from controller.compress.passes.channels import ChannelTracer, Slot
from controller.compress.passes.prune_structured import PruneRound, PruneStructured
from controller.compress.prune.criteria import CRITERIA
from controller.compress.prune.surgery import remove
from controller.errors import FitError

from .torch_side import Chain, Dense, Residual, candidate, context, trained

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def _answers(module: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(INPUTS)


@pytest.mark.parametrize("kind", [Chain, Residual, Dense])
def test_removing_channels_that_say_nothing_changes_no_output(kind: type[nn.Module]) -> None:
    """Silence the last channels of each free space, remove them, compare."""
    module = trained(kind())
    spaces = [s for s in ChannelTracer(module, INPUTS).spaces() if s.producers and not s.frozen]
    assert len(spaces) == (3 if kind is Dense else 2)
    for space in spaces:
        dead = slice(space.size // 2, space.size)
        for slot in (*map(Slot, space.producers), *space.norms, *space.depthwise):
            layer = module.get_submodule(slot.name)
            gone = slice(slot.offset + dead.start, slot.offset + dead.stop)
            layer.weight.data[gone] = 0.0
            if layer.bias is not None:
                layer.bias.data[gone] = 0.0
            if hasattr(layer, "running_mean"):
                layer.running_mean[gone] = 0.0
    expected = _answers(module)
    for index, space in enumerate(spaces):
        again = [s for s in ChannelTracer(module, INPUTS).spaces() if s.producers and not s.frozen]
        remove(module, again[index], torch.arange(space.size // 2))
    assert torch.allclose(expected, _answers(module), atol=1e-5)


def test_a_residual_sum_binds_its_branches() -> None:
    spaces = ChannelTracer(trained(Residual()), INPUTS).spaces()
    joined = next(s for s in spaces if "stem" in s.producers)
    assert set(joined.producers) == {"stem", "down"}
    assert {slot.name for slot in joined.consumers} == {"up", "head"}
    inner = next(s for s in spaces if "up" in s.producers)
    assert (inner.depthwise, inner.consumers) == ([Slot("dw")], [Slot("down")])


def test_a_flattened_channel_is_several_features() -> None:
    spaces = ChannelTracer(trained(Chain()), INPUTS).spaces()
    assert next(s for s in spaces if "b" in s.producers).consumers == [Slot("head", 4)]


def test_concatenated_channels_have_their_places() -> None:
    """The stem is read as it is, and twice behind one concatenation."""
    spaces = ChannelTracer(trained(Dense()), INPUTS).spaces()
    stem = next(s for s in spaces if "stem" in s.producers)
    side = next(s for s in spaces if "side" in s.producers)
    assert (stem.frozen, side.frozen) == ("", "")
    assert stem.norms == [Slot("nc"), Slot("nc", 1, 24)]
    assert stem.consumers == [Slot("side"), Slot("mix"), Slot("mix", 1, 24)]
    assert (side.norms, side.consumers) == ([Slot("nc", 1, 16)], [Slot("mix", 1, 16)])


def test_a_grouped_convolution_is_left_alone_and_listed() -> None:
    class Grouped(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Conv2d(16, 24, 3, padding=1, groups=2)
            self.c = nn.Conv2d(24, 24, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x))))))
            return self.head(self.pool(self.c(x)).flatten(1))

    found = PruneStructured(ratio=0.5).run(candidate(trained(Grouped())), context())
    assert found.evidence[0].notes == ("left alone: a (16 channels): 'b' is a grouped convolution",)
    assert (found.payload.a.out_channels, found.payload.c.out_channels) == (16, 16)


def test_rounds_count_from_the_networks_own_channels() -> None:
    """A second round by 0.5 does nothing after a first by 0.5; one by 0.75 halves again."""
    module = trained(Chain())
    known = context(module)
    first = PruneRound(ratio=0.5, multiple_of=4).run(candidate(module), known)
    same = PruneRound(ratio=0.5, multiple_of=4).run(first, known)
    further = PruneRound(ratio=0.75, multiple_of=4).run(same, known)
    widths = [found.payload.a.out_channels for found in (first, same, further)]
    assert widths == [8, 8, 4]
    assert same.evidence[-1].numbers["channels_removed"] == 0
    with pytest.raises(FitError, match="refuses a model that is pruned"):
        PruneStructured().run(first, known)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kind", [Chain, Residual, Dense])
def test_half_is_cut_and_rounded_up(kind: type[nn.Module], criterion: str) -> None:
    module = trained(kind())
    step = PruneStructured(ratio=0.5, multiple_of=8, criterion=criterion)
    found = step.run(candidate(module), context(module))
    convs = [m for m in found.payload.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.out_channels % 8 == 0 for m in convs)
    numbers = found.evidence[0].numbers
    assert numbers["parameters_after"] < 0.7 * numbers["parameters_before"]
    assert _answers(found.payload).shape == _answers(module).shape
    assert module.head.in_features != found.payload.head.in_features  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("size", "multiple", "ratio", "kept"),
    [(24, 8, 0.5, 16), (16, 8, 0.5, 8), (10, 8, 0.5, 8), (6, 8, 0.5, 6), (100, 1, 0.3, 70)],
)
def test_what_is_kept(size: int, multiple: int, ratio: float, kept: int) -> None:
    assert PruneStructured(ratio=ratio, multiple_of=multiple).kept(size) == kept


def test_the_smallest_filters_go_first() -> None:
    module = trained(Chain())
    with torch.no_grad():
        module.a.weight[1::2] *= 1e-3  # type: ignore[index,union-attr]
    found = PruneStructured(ratio=0.5, multiple_of=8).run(candidate(module), context())
    assert torch.equal(found.payload.a.weight, module.a.weight[::2])  # type: ignore[index,union-attr]


def test_an_operation_that_is_not_known_freezes_what_it_touches() -> None:
    class Odd(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.na(self.a(x))).flip(1)
            return self.head(self.pool(torch.relu(self.nb(self.b(x)))).flatten(1))

    spaces = ChannelTracer(trained(Odd()), INPUTS).spaces()
    assert "flip" in next(s for s in spaces if "a" in s.producers).frozen
    assert not next(s for s in spaces if "b" in s.producers).frozen


def test_a_network_without_free_channels_says_why() -> None:
    module = trained(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    with pytest.raises(FitError, match="no channels can be removed: the model's output"):
        PruneStructured().run(candidate(module), context())


def test_control_flow_on_values_is_refused_with_a_reason() -> None:
    class Branching(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(FitError, match="cannot be traced for pruning"):
        PruneStructured().run(candidate(trained(Branching())), context())


class Words(nn.Module):
    """Embedded words, two convolutions, one parameter-free pooling for both."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.short, self.long = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(16, 8, 5, padding=2)
        self.largest, self.head = nn.AdaptiveMaxPool1d(1), nn.Linear(24, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.embedding(tokens).transpose(1, 2)
        parts = [self.largest(torch.relu(conv(found))) for conv in (self.short, self.long)]
        return self.head(torch.cat(parts, dim=1).flatten(1))


TOKENS = torch.arange(24).reshape(3, 8) % 20


def test_words_without_meaning_are_cut_out_of_an_embedding() -> None:
    torch.manual_seed(0)
    module = Words().eval()
    module.embedding.weight.data[:, ::2] = 0.0
    with torch.inference_mode():
        expected = module(TOKENS)
    space = next(
        s for s in ChannelTracer(module, TOKENS, tables=True).spaces() if "embedding" in s.producers
    )
    assert {slot.name for slot in space.consumers} == {"short", "long"}
    remove(module, space, torch.arange(1, 16, 2))
    assert module.embedding.weight.shape == (20, 8)
    assert module.short.weight.shape == (16, 8, 3)
    with torch.inference_mode():
        assert torch.allclose(expected, module(TOKENS), atol=1e-6)


def test_without_being_asked_an_embedding_stays_and_its_readers_are_cut() -> None:
    spaces = ChannelTracer(Words().eval(), TOKENS).spaces()
    free = {name for s in spaces if not s.frozen for name in s.producers}
    assert free == {"short", "long"}
    assert any("embedding" in s.frozen for s in spaces)
