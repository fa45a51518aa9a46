"""The sampling loop that engines with a cache share. It chooses exactly as `plain` does, token for token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from policyopt.distributions import widest
from policyopt.ops.random import uniforms
from policyopt.types import Batch, Categorical


class NotFiniteError(ArithmeticError):
    """A model gave logits that are no numbers; nothing that was sampled from them is kept."""


class Stream(ABC):
    """Rows being decoded side by side."""

    @abstractmethod
    def first(self) -> Tensor:
        """Logits (R, V) of the first new token of every row."""

    @abstractmethod
    def following(self, token: Tensor) -> Tensor:
        """Logits (R, V) after one more token (R,) per row."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices among the current ones)."""


def sample(
    start: Callable[[Batch], Stream],
    world: Any,
    batch: Batch,
    keys: Tensor,
    temperature: float,
    version: int,
    steps: int | None = None,
) -> Batch:
    """Tokens for every row that is not done, until EOS or the world's limit, at most `steps` of them; they are
    appended at once.

    start: opens a stream for some rows. The n-th token of a row uses the n-th number of the row's own stream. Rows
    that ended are dropped when they are more than half of those still computed.
    """
    rows = (~batch.done).nonzero()[:, 0]  # the batch rows still computed
    if len(rows) == 0:
        return batch
    left = (world.limit - batch.lengths).clamp(min=1, max=steps)
    most = int(left[rows].max())
    stream = start(batch[rows])
    logits = stream.first()
    token = torch.zeros(len(batch), most, dtype=torch.int64, device=batch.device)
    live = torch.zeros_like(token, dtype=torch.bool)
    logp = torch.zeros(len(batch), most, dtype=widest(batch.device), device=batch.device)
    running = torch.ones_like(rows, dtype=torch.bool)  # among `rows`
    for position in range(most):
        chosen, of_chosen = _choose(logits, temperature, batch.row["temperature"][rows], keys[rows], position)
        token[rows, position], logp[rows, position], live[rows, position] = chosen, of_chosen.to(logp.dtype), running
        running = running & (chosen != world.eos) & (left[rows] > position + 1)
        alive = int(running.sum())
        if alive == 0:
            break
        if 2 * alive < len(rows):
            kept = running.nonzero()[:, 0]
            stream.keep(kept)
            rows, running, chosen = rows[kept], running[kept], chosen[kept]
        logits = stream.following(chosen)
    if not bool(logp[live].isfinite().all()):
        raise NotFiniteError(
            "a sampled token has no finite log-probability: the model's logits are nan or infinite. Its weights have "
            "diverged: train again with a lower learning rate; or its precision does not suit its attention kernel"
        )
    return world.extend(batch, token, logp, live, version)


def _choose(logits: Tensor, temperature: float, heat: Tensor, keys: Tensor, position: int) -> tuple[Tensor, Tensor]:
    if temperature == 0:
        dist = Categorical.of(logits)
        token = dist.mode()
    else:
        dist = Categorical.of(logits, heat[:, None])
        token = dist.sample(uniforms(keys, position, dist.width))
    return token, dist.log_prob(token)
