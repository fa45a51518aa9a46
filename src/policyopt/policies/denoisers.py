"""Small networks that denoise: for vectors (MLP), for images (U-Net, diffusion transformer), and a switch of two.

A denoiser maps latents (N, D), network times (N,) and conditions (N,) ids, (N, C) vectors or None to (N, D).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import frozen


@contextlib.contextmanager
def seeded(seed: int | torch.Generator) -> Iterator[None]:
    """Weights made inside are a function of the seed alone."""
    number = seed if isinstance(seed, int) else int(torch.randint(2**62, (), generator=seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        yield


@dataclass(frozen=True)
class Conditions:
    """What a network is conditioned on: ids below `classes`, vectors of `features` numbers, or nothing (both 0).

    unconditional: the id that says "no condition" (None: one more than the last, for which our own networks have a
    row); vectors say it by zeros. centre, spread: (features,) vectors are read as (x - centre) / spread; empty: as
    they are.
    """

    classes: int = 0
    features: int = 0
    unconditional: int | None = None
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.classes and self.features:
            raise ValueError("conditions are ids (classes) or vectors (features), not both")
        if any(len(given) not in (0, self.features) for given in (self.centre, self.spread)):
            raise ValueError(f"centre and spread have a number for each of the {self.features} features, or none")
        if any(not spread > 0 for spread in self.spread):
            raise ValueError(f"spreads are above 0, not {self.spread}")

    @property
    def nothing(self) -> int:
        """The id that says "no condition"."""
        return self.classes if self.unconditional is None else self.unconditional

    def without(self, condition: Tensor) -> Tensor:
        """As if there were no condition."""
        return torch.full_like(condition, self.nothing) if self.classes else torch.zeros_like(condition)


class Embedding(nn.Module):
    """Conditions -> (N, width)."""

    def __init__(self, conditions: Conditions, width: int):
        super().__init__()
        self.conditions = conditions
        self.table = nn.Embedding(conditions.classes + 1, width) if conditions.classes else None
        self.linear = nn.Linear(conditions.features, width) if conditions.features else None

    def forward(self, condition: Tensor | None) -> Tensor | float:
        if self.table is None and self.linear is None:
            return 0.0
        if condition is None:
            raise ValueError(f"this network needs conditions ({self.conditions}), but the rows carry none")
        if self.table is not None:
            return self.table(condition)
        assert self.linear is not None
        return self.linear(self._read(condition.flatten(1).to(self.linear.weight.dtype)))

    def _read(self, x: Tensor) -> Tensor:
        centre, spread = self.conditions.centre, self.conditions.spread
        x = x - x.new_tensor(centre) if centre else x
        return x / x.new_tensor(spread) if spread else x


def waves(time: Tensor, width: int, scale: float) -> Tensor:
    """(N,) -> (N, width) sines and cosines of time / scale at angular frequencies from 16 down to 0.1: higher ones make
    what a small network says of neighbouring times differ by chance."""
    half = width // 2
    spread = torch.arange(half, device=time.device, dtype=time.dtype) / half
    angle = (time / scale)[:, None] * 16 * torch.exp(-math.log(160) * spread)
    return torch.cat([angle.sin(), angle.cos()], -1)


class VectorDenoiser(nn.Module):
    """A perceptron for vectors. time_scale: the largest time it will be told (1 for flows, T for diffusion)."""

    def __init__(
        self,
        dims: int,
        conditions: Conditions = Conditions(),
        width: int = 128,
        depth: int = 3,
        time_scale: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.dims, self.conditions, self.time_scale, self.width = dims, conditions, time_scale, width
        with seeded(seed):
            self.enter = nn.Linear(dims, width)
            self.moment = nn.Sequential(nn.Linear(width, width), nn.SiLU())
            self.given = Embedding(conditions, width)
            self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
            self.leave = nn.Linear(width, dims)

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.enter(latent) + self.moment(waves(time, self.width, self.time_scale)) + self.given(condition)
        x = nn.functional.silu(x)
        for layer in self.hidden:
            x = x + nn.functional.silu(layer(x))
        return self.leave(x)


class _Block(nn.Module):
    """Two convolutions with the time and condition added between them."""

    def __init__(self, into: int, out: int, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.shift, self.norm = nn.Linear(width, out), nn.GroupNorm(4, out)
        self.skip = nn.Conv2d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        y = nn.functional.silu(self.first(x)) + self.shift(moment)[:, :, None, None]
        return self.skip(x) + self.second(nn.functional.silu(self.norm(y)))


class ImageDenoiser(nn.Module):
    """A U-Net of two scales for images (channels, height, width), height and width even."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        conditions: Conditions = Conditions(),
        width: int = 32,
        time_scale: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.shape, self.conditions, self.time_scale, self.width = shape, conditions, time_scale, width
        self.dims = math.prod(shape)
        with seeded(seed):
            inner = 2 * width
            self.moment = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            self.given = Embedding(conditions, width)
            self.enter = nn.Conv2d(shape[0], width, 3, padding=1)
            self.fine, self.down = _Block(width, width, width), nn.Conv2d(width, inner, 3, stride=2, padding=1)
            self.coarse, self.middle = _Block(inner, inner, width), _Block(inner, inner, width)
            self.up = nn.ConvTranspose2d(inner, width, 2, stride=2)
            self.back, self.leave = _Block(2 * width, width, width), nn.Conv2d(width, shape[0], 3, padding=1)

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        moment = self.moment(waves(time, self.width, self.time_scale)) + self.given(condition)
        fine = self.fine(self.enter(latent.unflatten(1, self.shape)), moment)
        coarse = self.middle(self.coarse(self.down(fine), moment), moment)
        joined = self.back(torch.cat([fine, self.up(coarse)], 1), moment)
        return self.leave(joined).flatten(1)


class _AdaptiveBlock(nn.Module):
    """Attention and perceptron, scaled and shifted by the time and condition (adaLN-Zero of arXiv 2212.09748)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulate(moment)[:, None].chunk(6, -1)
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attention(y, y, y, need_weights=False)[0]
        return x + gate2 * self.hidden(self.norm(x) * (1 + scale2) + shift2)


class PatchDenoiser(nn.Module):
    """A small diffusion transformer over patches of images (channels, height, width)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        conditions: Conditions = Conditions(),
        width: int = 64,
        depth: int = 2,
        patch: int = 2,
        time_scale: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if shape[1] % patch or shape[2] % patch:
            raise ValueError(f"images of {shape[1:]} do not split into patches of {patch}")
        self.shape, self.conditions, self.time_scale, self.width = shape, conditions, time_scale, width
        self.dims, self.patch = math.prod(shape), patch
        numbers, count = shape[0] * patch**2, shape[1] * shape[2] // patch**2
        with seeded(seed):
            self.place = nn.Parameter(0.02 * torch.randn(count, width))
            self.enter, self.leave = nn.Linear(numbers, width), nn.Linear(width, numbers)
            self.moment = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            self.given = Embedding(conditions, width)
            self.blocks = nn.ModuleList(_AdaptiveBlock(width, 4) for _ in range(depth))
            self.norm = nn.LayerNorm(width)

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        moment = self.moment(waves(time, self.width, self.time_scale)) + self.given(condition)
        folded = nn.functional.unfold(latent.unflatten(1, self.shape), self.patch, stride=self.patch)
        x = self.enter(folded.transpose(1, 2)) + self.place
        for block in self.blocks:
            x = block(x, moment)
        patches = self.leave(self.norm(x)).transpose(1, 2)
        return nn.functional.fold(patches, self.shape[1:], self.patch, stride=self.patch).flatten(1)


class Switched(nn.Module):
    """Two networks for one chain: `early` at times of at least `boundary` (the noisy part), `late` below it.

    A frozen early part and a trained late one is DPPO's partly frozen chain; a teacher before its distilled student is
    teacher-guided sampling.
    """

    def __init__(self, early: nn.Module, late: nn.Module, boundary: float):
        super().__init__()
        self.early, self.late, self.boundary = early, late, boundary
        self.dims: int = late.dims  # type: ignore[assignment]
        self.conditions: Conditions = late.conditions  # type: ignore[assignment]

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        early = time >= self.boundary
        if bool(early.all()):
            return self.early(latent, time, condition)
        if not bool(early.any()):
            return self.late(latent, time, condition)
        out = torch.empty_like(latent)
        for network, rows in ((self.early, early), (self.late, ~early)):
            part = network(latent[rows], time[rows], None if condition is None else condition[rows])
            out = out.masked_scatter(rows[:, None], part.to(out.dtype))
        return out


def partly_frozen(network: Any, times: Tensor, trained: int) -> Switched:
    """The last `trained` steps of a chain with these network times (K,) are trained, the others run a frozen copy."""
    if not 0 < trained <= len(times):
        raise ValueError(f"the trained steps must be 1 to {len(times)}, not {trained}")
    first = len(times) - trained
    boundary = float("inf") if first == 0 else (float(times[first - 1]) + float(times[first])) / 2
    return Switched(frozen(network), network, boundary)
