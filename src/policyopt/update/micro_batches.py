"""How the rows of one optimiser step are divided into passes, whose values and gradients add up to the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.types import NO_TOKEN, PROMPT, Batch


def units(batch: Batch, couples: Sequence[str]) -> Tensor:
    """(B,) a unit id per row; rows that share an id of any coupled column are in one unit."""
    unit = torch.arange(len(batch), device=batch.device)
    while couples:
        before = unit
        for column in couples:
            inverse = batch.row[column].unique(return_inverse=True)[1]
            least = torch.full_like(unit, len(batch)).scatter_reduce(0, inverse, unit, "amin")
            unit = least[inverse]
        if torch.equal(unit, before):
            break
    return unit


def split(batch: Batch, pieces: int, couples: Sequence[str], rng: torch.Generator | None = None) -> list[Tensor]:
    """Row numbers of at most `pieces` minibatches that separate no unit; shuffled if given a generator."""
    unit = units(batch, couples)
    order = unit.unique()
    if rng is not None:
        order = order[torch.randperm(len(order), generator=rng).to(order.device)]
    if not len(order):
        return []
    chunks = order.tensor_split(min(pieces, len(order)))
    if not couples:  # every row is its own unit
        return [chunk.sort().values for chunk in chunks]
    return [torch.isin(unit, chunk).nonzero()[:, 0] for chunk in chunks]


@dataclass(frozen=True)
class Passes:
    """rows: at most so many per pass. tokens: at most so many per pass, prompts counted with every row (more only where
    rows that belong together have more). skip_idle: rows of text that no term can learn from have passes of their own,
    without gradient."""

    rows: int | None = None
    tokens: int | None = None
    skip_idle: bool = False

    def of(self, batch: Batch, planned: Sequence[Any], couples: Sequence[str]) -> Iterator[tuple[Tensor | slice, bool]]:
        """Row numbers of every pass and whether it has a gradient; no unit of coupled rows is separated."""
        # Elsewhere a pass costs less than the look.
        idle = idle_rows(batch, planned, couples) if self.skip_idle and PROMPT in batch.row else None
        if idle is not None and bool(idle.any()):
            for moving in (True, False):
                rows = (idle != moving).nonzero()[:, 0]
                if len(rows):
                    yield from ((rows[part], moving) for part in self._cut(batch[rows], couples))
        elif (self.rows is None or len(batch) <= self.rows) and self.tokens is None:
            yield slice(None), True
        else:
            yield from ((rows, True) for rows in self._cut(batch, couples))

    def _cut(self, batch: Batch, couples: Sequence[str]) -> list[Tensor]:
        """Row numbers of the passes over a whole batch."""
        if self.tokens is None:
            return split(batch, 1 if self.rows is None else -(-len(batch) // self.rows), couples)
        ids, owner = units(batch, couples).unique(return_inverse=True)
        size = torch.zeros(len(ids), dtype=torch.int64, device=batch.device).index_add(0, owner, sizes(batch))
        number, filled = [0], 0
        for tokens in size.tolist():
            begins = filled > 0 and filled + tokens > self.tokens
            number.append(number[-1] + begins)
            filled = tokens if begins else filled + tokens
        of_row = torch.tensor(number[1:], device=batch.device)[owner]
        return [(of_row == index).nonzero()[:, 0] for index in range(number[-1] + 1)]


def sizes(batch: Batch) -> Tensor:
    """(B,) tokens of every row, its prompt among them."""
    steps = batch.valid.sum(1)
    return steps + (batch.context() != NO_TOKEN).sum(1) if PROMPT in batch.row else steps


def idle_rows(batch: Batch, planned: Sequence[Any], couples: Sequence[str]) -> Tensor:
    """(B,) rows that have no gradient in any term, because they are not counted or their loss is known to have none;
    nor have those that are coupled with them."""
    idle = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
    for item in planned:
        still = item.weights == 0
        known = item.term.loss.idle(item.batch)
        if known is not None:
            still = still | known
        idle &= still if still.dim() == 1 else still.all(1)
    unit = units(batch, couples)
    return ~torch.isin(unit, unit[~idle])
