"""A world of thoughts that can be cut: steps reveal hidden bits, an answer names them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.ops.random import derive, uniforms
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch
from policyopt.worlds.tables import places

KNOWN = 7
"""What is known of two bits: nothing; the first (0, 1); both (00, 01, 10, 11)."""


@dataclass(frozen=True)
class Thoughts:
    """A thought has `limit` steps of 4 actions, one of which (right (KNOWN,)) reveals the next bit with probability
    `luck`; then, or when it is told to (`conclude`), the row answers with one of 4 symbols: reward 1 for both bits. The
    bits are a function of (seed, group, place in the group).

    States: step * KNOWN + what is known, then KNOWN states of answering.
    """

    right: Tensor
    limit: int
    luck: float
    seed: int
    size: int = 1

    @property
    def states(self) -> int:
        return (self.limit + 1) * KNOWN

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        none = torch.zeros(len(tasks), 0, dtype=torch.int64)
        batch = empty_batch(tasks, {"_state": none, "_step": none})
        group = batch.row["group"]
        noise = group * 1_000_003 + places(group) + derive(self.seed, "thoughts") % 2**40
        bits = (uniforms(noise, 10_000, 1)[:, 0] * 4).long()
        return batch.with_rows({"_state": torch.zeros_like(group), "_noise": noise, "_bits": bits})

    def known(self, state: Tensor) -> Tensor:
        return state % KNOWN

    def learned(self, known: Tensor, bits: Tensor) -> Tensor:
        """What is known after one more bit."""
        return torch.where(known == 0, 1 + bits // 2, torch.where(known < 3, 3 + bits, known))

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        state, position = batch.row["_state"], batch.valid.sum(1)
        answering, known = state >= self.limit * KNOWN, self.known(state)
        taken = {
            "kind": torch.full_like(step, int(StepKind.OWN), dtype=torch.uint8),
            "train": torch.ones_like(live),
            "behaviour": logp,
            "version": torch.full_like(step, version),
            "_state": state,
            "_step": step,
        }
        added = batch.behind({name: column[:, None] for name, column in taken.items()}, live[:, None])
        chance = uniforms(batch.row["_noise"], position, 1)[:, 0] < self.luck
        found = (step == self.right[known]) & chance
        known = torch.where(found, self.learned(known, batch.row["_bits"]), known)
        after = torch.where(answering, state, (position + 1).clamp(max=self.limit) * KNOWN + known)
        finish = torch.where(live & answering, int(Finish.STOPPED), batch.row["finish"])
        return added.with_rows({"finish": finish, "_state": torch.where(live, after, state)})

    def rewind(self, batch: Batch, steps: Tensor) -> Batch:
        return batch.rewound(steps)

    def conclude(self, batch: Batch) -> Batch:
        return batch.with_rows({"_state": self.limit * KNOWN + self.known(batch.row["_state"])})

    def grade(self, batch: Batch) -> Tensor:
        last = (batch.valid.sum(1) - 1).clamp(min=0)[:, None]
        answered = batch.step["_state"].gather(1, last)[:, 0] >= self.limit * KNOWN
        right = batch.step["_step"].gather(1, last)[:, 0] == batch.row["_bits"]
        return (answered & right).float()

    def accuracy(self, policy: Tensor) -> Tensor:
        """(limit + 1,) the probability of a right answer after 0, 1 ... steps of thought, exact, policy (S, 4)."""
        found = []
        for bits in range(4):
            here = torch.eye(KNOWN, dtype=policy.dtype)[0]
            told = torch.tensor(bits)
            after = torch.stack([self.learned(torch.tensor(k), told) for k in range(KNOWN)])
            curve = []
            for step in range(self.limit + 1):
                curve.append((here * policy[self.limit * KNOWN :, bits]).sum())
                if step == self.limit:
                    break
                chance = policy[step * KNOWN + torch.arange(KNOWN), self.right] * self.luck
                here = (here * (1 - chance)).index_add(0, after, here * chance)
            found.append(torch.stack(curve))
        return torch.stack(found).mean(0)
