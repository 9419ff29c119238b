"""Where features are taken: the last convolution of each resolution, found by running the module.

Forward hooks see any torch module, also one that cannot be traced. A resolution is the shape
behind the channel axis. After a convolution its normalization and activation belong to it, where
they are modules of their own. A module without convolutions has no points: methods that match
features then leave it at Hinton's loss, and the pass says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

Resolution = tuple[int, ...]


def points(module: nn.Module, example: torch.Tensor) -> dict[Resolution, str]:
    """Resolution -> name of the module whose output is the feature there, in the order of running.

    Args:
        module: any module; it is run once in eval mode and left in the mode it was in.
        example: real inputs [B, …].
    """
    import torch

    ran = _run_order(module, example)
    found: dict[Resolution, str] = {}
    open_at: Resolution | None = None  # the resolution whose convolution may still be followed
    for name, kind, shape in ran:
        if isinstance(kind, torch.nn.Conv1d | torch.nn.Conv2d) and len(shape) > 2:
            open_at = shape[2:]
            found.pop(open_at, None)  # keeps the order of running
            found[open_at] = name
        elif open_at is not None and isinstance(kind, _followers()) and shape[2:] == open_at:
            found[open_at] = name
        else:
            open_at = None
    return found


def common(
    student: Mapping[Resolution, str], teacher: Mapping[Resolution, str]
) -> list[tuple[str, str]]:
    """Pairs of names (student's, teacher's) at the resolutions that both have."""
    return [(name, teacher[size]) for size, name in student.items() if size in teacher]


@contextmanager
def tapped(module: nn.Module, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every forward run leaves the outputs of ``names`` in the mapping."""
    taken: dict[str, torch.Tensor] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(_keeper(name, taken)) for name in names
    ]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _keeper(name: str, into: dict[str, torch.Tensor]) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        into[name] = output

    return keep


def _run_order(
    module: nn.Module, example: torch.Tensor
) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    import torch

    ran: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def hook(child: nn.Module, _inputs: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
            ran.append((name, child, shape))

        return hook

    leaves = [(n, m) for n, m in module.named_modules() if n and not list(m.children())]
    handles = [leaf.register_forward_hook(note(name)) for name, leaf in leaves]
    mode = module.training
    try:
        with torch.inference_mode():
            module.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        module.train(mode)
    return ran


def _followers() -> tuple[type, ...]:
    from torch import nn

    return (
        nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU,
        nn.GELU, nn.Hardswish, nn.Identity,
    )  # fmt: skip
