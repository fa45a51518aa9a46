"""Models moved in the space of their parameters, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from policyopt.ops.random import generator


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def perturbations(model: nn.Module, count: int, seed: int, step: int) -> Float[Tensor, "m d"]:
    """Standard normal directions, a function of the run's seed and round: sampler and update have the same."""
    size = sum(parameter.numel() for parameter in trainable(model))
    return torch.randn(count, size, generator=generator(seed, "perturbations", step), dtype=torch.float64)


@torch.no_grad()
def moved(model: nn.Module, change: Tensor) -> None:
    """Add (d,) to the trained parameters."""
    start = 0
    for parameter in trainable(model):
        piece = change[start : start + parameter.numel()].view(parameter.shape)
        parameter.add_(piece.to(parameter))
        start += parameter.numel()


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Gives the parameters back bit for bit."""
    before = [parameter.detach().clone() for parameter in trainable(model)]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(trainable(model), before, strict=True):
                parameter.copy_(value)
