"""Prompts padded on the left and steps padded on the right, moved together into rows without a gap.

A packed row starts at column 0 and is padded on the right only, so a causal decoder needs no mask, positions are
0, 1, 2 ... and no padding comes before a valid position: padding can not change a score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from policyopt.types import NO_TOKEN, Batch

T = TypeVar("T")


@dataclass(frozen=True)
class Packed:
    """tokens: prompt, then steps; padding holds token 0. first: the position whose output predicts step 0.
    valid: the steps that are not padding."""

    tokens: Int[Tensor, "B L"]
    first: Int[Tensor, " B"]
    valid: Bool[Tensor, "B T"]

    @property
    def last(self) -> Int[Tensor, " B"]:
        """The position of the last valid token: its output predicts the step that was not taken yet."""
        return self.first + self.valid.sum(1)


def pack(batch: Batch, context: str | None = None) -> Packed:
    """The rows of a batch under one of their contexts.

    ValueError: an empty prompt (nothing predicts the first step) or padding between valid steps.
    """
    prompt, valid = batch.context(context), batch.valid
    length = (prompt != NO_TOKEN).sum(1)
    if len(batch) and int(length.min()) == 0:
        empty = int((length == 0).sum())
        raise ValueError(
            f"every prompt needs at least one token, because the first step is predicted from it; {empty} of "
            f"{len(batch)} rows have an empty context {context or 'prompt'!r}: start it with a BOS token"
        )
    if bool((valid[:, 1:] & ~valid[:, :-1]).any()):
        raise ValueError("steps of a row stand side by side, padding after them; this batch has padding between")
    tokens = torch.cat([prompt, batch.step["_token"].masked_fill(~valid, NO_TOKEN)], 1)
    width = tokens.shape[1]
    # Rotated left by each row's padding: what leaves on the left (padding) comes back as padding on the right.
    shift = (prompt.shape[1] - length)[:, None] + torch.arange(width, device=tokens.device)
    tokens = tokens.gather(1, shift % width).clamp(min=0)
    longest = int((length + valid.sum(1)).max()) if len(batch) else 0
    return Packed(tokens[:, :longest], length - 1, valid)


def by_rows(batch: Batch, rows: int, compute: Callable[[Batch], T]) -> list[T]:
    """compute(batch), and without gradient of at most `rows` rows at a time: what they need at once is bounded then,
    where with gradient it is all kept anyway."""
    if torch.is_grad_enabled() or len(batch) <= rows:
        return [compute(batch)]
    return [compute(batch[start : start + rows]) for start in range(0, len(batch), rows)]
