"""Every trajectory of a small process, and groups of them, with their probabilities: expectations as sums."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.policies.tabular import Softmax
from policyopt.types import Batch, Tasks
from policyopt.worlds.tables import TabularMDP, unrolled


@dataclass(frozen=True)
class Enumerated:
    """rows: every trajectory, its behaviour log-probabilities those of the policy. start (B,): the first state.
    nature (B,): the probability of first state and moves. policy (B,): that of the steps."""

    rows: Batch
    start: Tensor
    nature: Tensor
    policy: Tensor

    @property
    def probability(self) -> Tensor:
        return self.nature * self.policy


def every_trajectory(mdp: TabularMDP, policy: Softmax) -> Enumerated:
    """Every trajectory of one task with probability above 0, in order of the first state. All end together or are
    padded."""
    first = mdp.start_at[0].nonzero()[:, 0]
    rows = mdp.start(Tasks(torch.zeros(len(first), dtype=torch.int64))).with_rows({"_state": first})
    start, nature, chance = first, mdp.start_at[0][first], torch.ones(len(first), dtype=torch.float64)
    while not bool(rows.done.all()):
        index, step, reached, moved = _branches(mdp, rows)
        rows, start, nature, chance = rows[index], start[index], nature[index] * moved, chance[index]
        live = ~rows.done
        with torch.no_grad():
            logp = policy.next(rows).log_prob(step)
        chance = torch.where(live, chance * logp.double().exp(), chance)
        rows = mdp.moved(rows, step, logp, live, reached)
    count = len(rows)
    columns = {"group": torch.arange(count), "temperature": torch.ones(count), "_number": torch.arange(count)}
    return Enumerated(rows.with_rows(columns), start, nature, chance)


def _branches(mdp: TabularMDP, rows: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row number, step, state reached and probability of every continuation; a finished row has one, itself."""
    found: list[tuple[int, int, int, float]] = []
    for b in range(len(rows)):
        state = int(rows.row["_state"][b])
        if bool(rows.done[b]):
            found.append((b, 0, state, 1.0))
            continue
        for action in range(mdp.actions):
            for reached in mdp.transition[state, action].nonzero()[:, 0].tolist():
                found.append((b, action, reached, float(mdp.transition[state, action, reached])))
    index, step, reached, chance = zip(*found, strict=True)
    return torch.tensor(index), torch.tensor(step), torch.tensor(reached), torch.tensor(chance, dtype=torch.float64)


def every_group(one: Enumerated, size: int) -> Enumerated:
    """Every ordered group of `size` trajectories that begin in the same state. A row's `nature` and `policy` are then
    those of its group, the first state counted once."""
    picks: list[Sequence[int]] = []
    for state in one.start.unique().tolist():
        members = (one.start == state).nonzero()[:, 0].tolist()
        picks += itertools.product(members, repeat=size)
    index = torch.tensor(picks)
    first = _start_probability(one)
    nature = (one.nature / first)[index].prod(1) * first[index[:, 0]]
    chance = one.policy[index].prod(1)
    rows = one.rows[index.flatten()]
    group = torch.arange(len(index)).repeat_interleave(size)
    numbered = rows.with_rows({"group": group, "_number": torch.arange(len(group))})
    spread = torch.arange(len(index)).repeat_interleave(size)
    return Enumerated(numbered, one.start[index.flatten()], nature[spread], chance[spread])


def _start_probability(one: Enumerated) -> Tensor:
    """(B,) the probability of the row's first state: what all rows that begin there sum to."""
    total = {s: one.probability[one.start == s].sum() for s in one.start.unique().tolist()}
    return torch.stack([total[s] for s in one.start.tolist()])


def tiny(*, binary: bool = False) -> TabularMDP:
    """Three states, two actions, two steps with the time in the state; two first states. Every action of the first
    step leads to two states. Rewards on every step, or (binary) 0 or 1 at the end."""
    move = torch.tensor(
        [
            [[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]],
            [[0.2, 0.0, 0.8], [0.5, 0.5, 0.0]],
            [[0.1, 0.9, 0.0], [0.0, 0.3, 0.7]],
        ],
        dtype=torch.float64,
    )
    reward = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 1.1]], dtype=torch.float64)
    flat = unrolled(TabularMDP(move, reward, torch.tensor([0.6, 0.4, 0.0]), horizon=2))
    if not binary:
        return flat
    paid = torch.zeros_like(flat.reward)
    paid[3:6, :, -1] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    return TabularMDP(flat.transition, paid, flat.start_at, 1.0, None, flat.terminal)
