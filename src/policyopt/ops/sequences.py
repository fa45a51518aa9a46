"""Sums along the steps of a row: returns, generalised advantages, sequence log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.ops.masked import select
from policyopt.types import NO_TOKEN, Batch


def to_go(x: Float[Tensor, "B T"], discount: Float[Tensor, "B T"] | float = 1.0) -> Float[Tensor, "B T"]:
    """y_t = x_t + discount_t * y_{t+1}."""
    out = torch.zeros_like(x)
    following = torch.zeros_like(x[:, 0]) if x.shape[1] else x.new_zeros(len(x))
    for t in reversed(range(x.shape[1])):
        following = x[:, t] + (discount[:, t] if isinstance(discount, Tensor) else discount) * following
        out[:, t] = following
    return out


def last_own(batch: Batch) -> Bool[Tensor, "B T"]:
    """True at the last own step of every row that has one."""
    remaining = batch.own.flip(1).cumsum(1).flip(1)
    return batch.own & (remaining == 1)


def on_last(batch: Batch, value: Float[Tensor, " B"]) -> Float[Tensor, "B T"]:
    """A value per row, placed on its last own step; 0 elsewhere."""
    spread = value[:, None].expand(-1, batch.steps)
    return select(last_own(batch), spread)


def spread(batch: Batch, value: Float[Tensor, " B"]) -> Float[Tensor, "B T"]:
    """A value per row, on each of its own steps; 0 elsewhere."""
    return select(batch.own, value[:, None].expand(-1, batch.steps))


def step_weights(batch: Batch, column: str) -> Float[Tensor, "B T"]:
    """A column of weights on trained steps, 0 elsewhere: of steps, or of rows, whose steps then weigh alike."""
    weights = batch.step[column] if column in batch.step else batch.row[column][:, None].expand(-1, batch.steps)
    return select(batch.trained, weights)


def total_reward(batch: Batch, column: str = "reward") -> Float[Tensor, " B"]:
    """Sum of a reward column over all steps that are not padding."""
    return select(batch.valid, batch.step[column]).sum(1)


def prefix_keys(first: Int[Tensor, " B"], taken: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Equal at two steps if their rows have the same `first` and took the same steps before."""
    keys, columns = first.unique(return_inverse=True)[1], []
    for step in taken.unbind(1):
        columns.append(keys)
        keys = torch.stack([keys, step], 1).unique(dim=0, return_inverse=True)[1]
        # Later steps have keys of their own: a prefix of n steps is none of n + 1.
        keys = keys + columns[-1].max() + 1 if len(keys) else keys
    return torch.stack(columns, 1) if columns else taken.clone()


def pack_own(batch: Batch, *columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """Own steps of every row moved to the left, so that step t + 1 follows t with no tool step between.
    Returns the columns and the index (B, T) that gathers them back."""
    order = (~batch.own).long().argsort(dim=1, stable=True)
    return [column.gather(1, order) for column in columns], order.argsort(1)


def fold_rewards(batch: Batch, rewards: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Rewards of tool, hint and other players' steps belong to the own step before them (or the first one)."""
    index = (batch.own.long().cumsum(1) - 1).clamp(min=0)
    kept = select(batch.valid, rewards)
    summed = torch.zeros_like(rewards).scatter_add(1, index, kept)
    return select(batch.own, summed.gather(1, index))


def generalised_advantage(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    after: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    gamma: Float[Tensor, "B T"] | float,
    lam: float,
) -> Float[Tensor, "B T"]:
    """GAE (Schulman et al. 2016, eq. 16), over left-packed steps.

    delta_t = r_t + gamma * V_{t+1} - V_t ;  A_t = delta_t + gamma * lam * A_{t+1} ; gamma may differ by step.
    `after` (B,) is the value after the last step: 0 for a terminated row, V of the final observation for a
    truncated one, so termination is never mistaken for truncation. The trace ends with the row.
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    following = torch.where(last, after[:, None], following)
    delta = select(mask, rewards + gamma * following - values)
    return select(mask, to_go(delta, gamma * lam))


def own_choices(policy: Any, batch: Batch) -> Int[Tensor, "B T"]:
    """The choices (tokens, symbols) of every row's own steps from the left, NO_TOKEN behind them."""
    taken = policy.taken(batch) if hasattr(policy, "taken") else batch.step["_token"]
    if taken.dim() != 2 or taken.is_floating_point():
        raise ValueError(f"rows of choices are needed; steps of {type(policy).__name__} are numbers")
    return pack_own(batch, torch.where(batch.own, taken, NO_TOKEN))[0][0]
