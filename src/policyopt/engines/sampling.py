"""The sampling loop that engines with a cache share. It chooses exactly as `plain` does, token for token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compiled.decoding import Kernels
from policyopt.distributions import widest
from policyopt.ops.kept import Kept, remembered
from policyopt.ops.random import uniforms
from policyopt.truncation import CUT, left_of
from policyopt.types import Batch, Categorical

_DRAWN = 64  # random numbers of a row that are made at a time


class NotFiniteError(ArithmeticError):
    """A model gave logits that are no numbers; nothing that was sampled from them is kept."""


def demand_finite(logp: Tensor) -> None:
    """NotFiniteError: the log-probability of a sampled token is no number."""
    if not bool(logp.isfinite().all()):
        raise NotFiniteError(
            "a sampled token has no finite log-probability: the model's logits are nan or infinite. Its weights have "
            "diverged: train again with a lower learning rate; or its precision does not suit its attention kernel"
        )


class Stream(ABC):
    """Rows being decoded side by side."""

    kernels: Kernels | None = None  # to choose tokens with

    @abstractmethod
    def enter(self, rows: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """Begin rows of the batch, behind those that run; logits of the first new token of each."""

    @abstractmethod
    def following(self, token: Tensor) -> Tensor:
        """Logits (R, V) after one more token (R,) per row."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Row n is from now on what row rows[n] was; what is not listed is forgotten."""

    def crowded(self, running: int, rows: int) -> bool:
        """Whether so many rows have ended that dropping them costs less than decoding them."""
        return 2 * running < rows


def sample(
    start: Callable[[Batch], Stream],
    world: Any,
    batch: Batch,
    keys: Tensor,
    temperature: float,
    version: int,
    steps: int | None = None,
    slots: int | None = None,
) -> Batch:
    """Tokens for every row that is not done, until EOS or the world's limit, at most `steps` of them; they are
    appended at once.

    start: opens a stream for some rows. slots: rows decoded side by side (None: all); the others wait, and enter when
    a quarter of the places is free. The n-th token of a row uses the n-th number of the row's own stream, so tokens do
    not depend on which rows stand side by side.
    """
    rows = (~batch.done).nonzero()[:, 0]
    if len(rows) == 0:
        return batch
    left = (world.limit - batch.lengths).clamp(min=1, max=steps)[rows]
    stream, heat = start(batch[rows]), batch.row["temperature"][rows]
    cut = batch.row[CUT][rows] if CUT in batch.row and temperature else None
    loop = _Loop(stream, _Chooser(keys[rows], temperature, heat, stream.kernels, cut), left, world.eos)
    loop.run(min(slots or len(rows), len(rows)))
    row, position, chosen, of_chosen = loop.taken()
    demand_finite(of_chosen)
    token = torch.zeros(len(batch), int(position.max()) + 1, dtype=torch.int64, device=batch.device)
    live = torch.zeros_like(token, dtype=torch.bool)
    logp = torch.zeros(token.shape, dtype=widest(batch.device), device=batch.device)
    place = (rows[row], position)
    token[place], logp[place], live[place] = chosen, of_chosen.to(logp.dtype), True
    done = world.extend(batch, token, logp, live, version)
    if cut is None:
        return done
    return remembered(done, place[0], batch.valid.sum(1)[place[0]] + position, Kept.joined(loop.kept))


class _Loop:
    """rows: those that run, in the stream's order. position: tokens that each has. ended: still there, but over.
    kept: at every step that was taken, if choices are cut off."""

    def __init__(self, stream: Stream, choose: _Chooser, left: Int[Tensor, " B"], eos: int):
        self._stream, self._choose, self._left, self._eos = stream, choose, left, eos
        self._taken: list[tuple[Tensor, ...]] = []
        self.kept: list[Kept] = []

    def run(self, slots: int) -> None:
        count, device = len(self._left), self._left.device
        rows = torch.arange(slots, device=device)
        begun = slots
        logits = self._stream.enter(rows)
        position = torch.zeros_like(rows)
        running = torch.ones_like(rows, dtype=torch.bool)
        alive = slots
        while True:
            chosen, logp, kept = self._choose(logits, rows, position)
            taken = (rows, position, chosen, logp)
            self._taken.append(taken if alive == len(rows) else tuple(column[running] for column in taken))
            if kept is not None:
                self.kept.append(kept if alive == len(rows) else kept[running])
            position = position + 1
            running = running & (chosen != self._eos) & (self._left[rows] > position)
            alive = int(running.sum())
            fresh = min(slots - alive, count - begun)
            fresh = fresh if 4 * fresh >= slots or fresh == count - begun or alive == 0 else 0
            if alive == fresh == 0:
                return
            if alive < len(rows) and (fresh or self._stream.crowded(alive, len(rows))):
                kept = _closed(running, alive)
                self._stream.keep(kept)
                rows, position, chosen = rows[kept], position[kept], chosen[kept]
                running = running[kept]
            parts = [self._stream.following(chosen)] if len(rows) else []
            if fresh:
                new = torch.arange(begun, begun + fresh, device=device)
                begun += fresh
                parts.append(self._stream.enter(new))
                rows, position = torch.cat([rows, new]), torch.cat([position, torch.zeros_like(new)])
                running, alive = torch.cat([running, torch.ones_like(new, dtype=torch.bool)]), alive + fresh
            logits = parts[0] if len(parts) == 1 else torch.cat(parts)

    def taken(self) -> tuple[Tensor, ...]:
        """Row, position, token and log-probability of everything that was chosen."""
        return tuple(torch.cat(columns) for columns in zip(*self._taken, strict=True))


def _closed(running: Tensor, alive: int) -> Int[Tensor, " K"]:
    """Indices of running rows: the last ones move into the places of those that ended, the others stay."""
    kept = torch.arange(alive, device=running.device)
    kept[~running[:alive]] = running[alive:].nonzero()[:, 0] + alive
    return kept


class _Chooser:
    """Tokens (R,) and their log-probabilities from logits (R, V), and what was kept, if choices are cut off.

    heat: temperatures. cut: see `truncation.CUT`."""

    def __init__(
        self,
        keys: Int[Tensor, " B"],
        temperature: float,
        heat: Float[Tensor, " B"],
        able: Kernels | None = None,
        cut: Float[Tensor, "B 3"] | None = None,
    ):
        self._keys, self._greedy, self._heat, self._kernels, self._cut = keys, temperature == 0, heat, able, cut
        self._plain = bool((heat == 1).all())
        self._drawn = torch.zeros(len(keys), 0, dtype=widest(keys.device), device=keys.device)

    def __call__(self, logits: Tensor, rows: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Kept | None]:
        if self._cut is None:
            return *self._chosen(logits, rows, position), None
        left = left_of(logits, self._heat[rows], self._cut[rows])
        return *self._chosen(logits.masked_fill(~left, -torch.inf), rows, position), Kept.where(left)

    def _chosen(self, logits: Tensor, rows: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        if self._greedy:
            dist = Categorical.of(logits)
            token = dist.mode()
        elif self._kernels is not None and self._kernels.dtype == logits.dtype:
            heat = self._heat[rows].double()
            return self._kernels.choose(logits.contiguous(), heat, self._uniforms(rows, position))
        else:
            dist = Categorical.of(logits) if self._plain else Categorical.of(logits, self._heat[rows, None])
            token = dist.sample(self._uniforms(rows, position)[:, None])
        return token, dist.log_prob(token)

    def _uniforms(self, rows: Tensor, position: Tensor) -> Tensor:
        """Made for many steps at once: one call for a few numbers costs as much as one for many."""
        while int(position.max()) >= self._drawn.shape[1]:
            first = self._drawn.shape[1]
            places = torch.arange(first, first + _DRAWN, device=self._keys.device)
            count = len(self._keys)
            found = uniforms(self._keys.repeat_interleave(_DRAWN), places.repeat(count), 1)
            self._drawn = torch.cat([self._drawn, found.view(count, _DRAWN)], 1)
        return self._drawn[rows, position]
