"""Games by hand: worlds that compare rows by a matrix, and every pair of answers as rows."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from policyopt.policies.tabular import Table
from policyopt.types import Batch
from policyopt.worlds.sequences import SequenceWorld

BIASED = torch.tensor([[0.5, 0.8, 0.3], [0.2, 0.5, 0.9], [0.7, 0.1, 0.5]], dtype=torch.float64)
"""A biased rock-paper-scissors of the specifications."""
FIRST = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


class Contest:
    """Row a (`_row`) is preferred to row b with the chance chances[a, b]."""

    def __init__(self, chances: Tensor):
        self.chances = chances

    def prefer(self, first: Batch, second: Batch) -> Tensor:
        return self.chances[first.row["_row"], second.row["_row"]]


def chances(size: int, seed: int = 0) -> Tensor:
    """Random numbers with P(a > b) + P(b > a) = 1."""
    upper = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).triu(1)
    return upper + (1 - upper.T).tril(-1) + 0.5 * torch.eye(size, dtype=torch.float64)


def answers(game: Tensor, tasks: int = 1) -> SequenceWorld:
    """One answer a row, out of len(game); an answer is worth its number."""
    return SequenceWorld(
        tasks,
        len(game),
        1,
        lambda s, t: s[:, 0].double(),
        compare=lambda a, b, t: game[a[:, 0], b[:, 0]],
        recordings=torch.zeros(tasks, 1, dtype=torch.int64),
    )


def every_pair(game: Tensor) -> Batch:
    """Two rows for every ordered pair (y, y') of answers, y first: `pair` its number, rank 0 and 1."""
    world, pairs = answers(game), torch.tensor(list(itertools.product(range(len(game)), repeat=2)))
    rows = world.complete(world.tasks(torch.zeros(pairs.numel(), dtype=torch.int64)), pairs.flatten()[:, None])
    number = torch.arange(len(pairs)).repeat_interleave(2)
    rank = torch.tensor([0, 1]).repeat(len(pairs))
    index = torch.arange(len(rows))
    return rows.with_rows({"pair": number, "rank": rank, "group": number, "_row": index})


def table(policy: Tensor) -> Table:
    """The one-task policy of these probabilities."""
    return Table(policy.log()[None])


def descended(game: Tensor, policy: Tensor, reference: Tensor, eta: float, tau: float) -> Tensor:
    """The closed form of a mirror-descent step on the regularised game, inverse step size eta."""
    share = tau / eta
    return (share * reference.log() + (1 - share) * policy.log() + game @ policy / eta).softmax(-1)
