"""Worlds of the experiments, around `SequenceWorld`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.evaluation.experiments._common import choice_scores
from policyopt.types import Batch, Categorical, Scores, Tasks
from policyopt.worlds.sequences import PairedWorld, SequenceWorld


@dataclass(frozen=True)
class Wrapped:
    """A world, mostly a SequenceWorld, with something around it."""

    inner: Any

    @property
    def size(self) -> int:
        return self.inner.size

    def tasks(self, ids: Tensor) -> Tasks:
        return self.inner.tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        return self.inner.start(tasks)

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        return self.inner.append(batch, step, logp, live, version)

    def rewind(self, batch: Batch, steps: Tensor) -> Batch:
        return batch.rewound(steps)

    def grade(self, batch: Batch) -> Tensor:
        return self.inner.grade(batch)


@dataclass(frozen=True)
class Automaton(Wrapped):
    """A SequenceWorld whose states follow from what was written: state' = follow(state, symbol).

    A table over `states` can then act on the past, where a SequenceWorld's own states know the position only.
    """

    states: int
    first: Callable[[Tensor], Tensor]  # task (B,) -> state (B,)
    follow: Callable[[Tensor, Tensor], Tensor]  # state (B,), symbol (B,) -> state (B,)

    def start(self, tasks: Tasks) -> Batch:
        return self.inner.start(tasks).with_rows({"_state": self.first(tasks.id)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        before = batch.row["_state"]
        added = self.inner.append(batch, step, logp, live, version)
        return added.with_rows({"_state": torch.where(live, self.follow(before, step), before)})


@dataclass(frozen=True)
class RecordedAnswers(PairedWorld):
    """Recorded pairs as tasks: `recorded_pairs` gives both sides of each, `recorded` its chosen side twice, so that
    an arm that imitates reads as many rows as an arm that compares."""

    def recorded(self, tasks: Tasks) -> Batch:
        assert self.inner.pairs is not None
        assert self.inner.pair_tasks is not None
        twice = tasks.repeat(2)
        chosen = replace(twice, id=self.inner.pair_tasks[twice.id])
        return self.inner.complete(chosen, self.inner.pairs[twice.id, 0])


def unpaid(strings: Tensor, task: Tensor) -> Tensor:
    """Reward: none."""
    return torch.zeros(len(task))


def recorded_answers(
    pairs: Tensor, tasks: Tensor, contexts: int, answers: int, reward: Callable[[Tensor, Tensor], Tensor] = unpaid
) -> RecordedAnswers:
    """Pairs (M, 2) of answers of one symbol, the preferred one first, of contexts (M,)."""
    return RecordedAnswers(SequenceWorld(contexts, answers, 1, reward, pairs=pairs[:, :, None], pair_tasks=tasks))


def labelled_answers(
    p: Tensor,
    worth: Tensor,
    pairs: int,
    rng: torch.Generator,
    flips: float = 0.0,
    reward: Callable[[Tensor, Tensor], Tensor] = unpaid,
) -> RecordedAnswers:
    """Pairs of different answers drawn from p (contexts, answers), Bradley-Terry labels by worth, of which a share
    `flips` is turned round."""
    context = torch.arange(pairs) % len(p)
    drawn = torch.multinomial(p[context], 2, replacement=False, generator=rng)
    gap = worth[context, drawn[:, 0]] - worth[context, drawn[:, 1]]
    first = (torch.rand(pairs, generator=rng) < gap.sigmoid()) ^ (torch.rand(pairs, generator=rng) < flips)
    ordered = torch.where(first[:, None], drawn, drawn.flip(1))
    return recorded_answers(ordered, context, *p.shape, reward=reward)


class BoundedTable(nn.Module):
    """A table that can not be sharper than logits of -bound ... bound: bound * tanh(x / bound) of its parameters."""

    kind = "tabular"

    def __init__(self, logits: Tensor, bound: float):
        super().__init__()
        self.free, self.bound = nn.Parameter(logits.clone()), bound

    @property
    def logits(self) -> Tensor:
        return self.bound * torch.tanh(self.free / self.bound)

    def next(self, batch: Batch) -> Categorical:
        return Categorical.of(self.logits[batch.row["_state"]])

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        return choice_scores(self.logits[batch.step["_state"]], batch, full=full)


def strings_with_target(size: int, choices: int, limit: int, rng: torch.Generator) -> Tensor:
    """(size, limit) a random target string per task."""
    return torch.randint(choices, (size, limit), generator=rng)


def share_right(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Reward: the share of positions that hold the target's symbol."""
    return lambda strings, task: (strings == target[task]).double().mean(1).float()


def all_right(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Reward: 1 if every position holds the target's symbol, else 0."""
    return lambda strings, task: (strings == target[task]).all(1).float()


def target_probability(table: Tensor, target: Tensor) -> Tensor:
    """(size, limit) probability of the target's symbol at every position, from a table (size * limit, choices)."""
    return table.gather(1, target.reshape(-1, 1)).view(target.shape)


@dataclass(frozen=True)
class Turns(Wrapped):
    """A world of numbered states whose steps belong to turns: the turn of every state."""

    turn: Tensor  # (S,)

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = self.inner.append(batch, step, logp, live, version)
        return added.with_steps({"turn": self.turn[added.step["_state"]]})
