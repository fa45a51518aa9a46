"""Small control worlds of tensors with actions between -1 and 1, any number of rows side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policyopt.ops.random import derive, uniforms
from policyopt.policies.bodies import MLP
from policyopt.policies.control import Actor, new_actor
from policyopt.types import Batch, Finish, Source, StepKind, Tasks, empty_batch

Author = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Moves:
    """Episodes of `limit` steps from a random state in -1..1; the limit ends them (`ends`) or cuts them.

    move(state, action) -> next state; pay(state, action) -> reward (N,), to which normal noise is added. author: who
    recorded, from states (N, S) and uniform numbers (N, A). exploration: the level that policies act with.
    """

    states: int
    actions: int
    move: Callable[[Tensor, Tensor], Tensor]
    pay: Callable[[Tensor, Tensor], Tensor]
    limit: int = 1
    ends: bool = True
    noise: float = 0.0
    exploration: float = 0.0
    author: Author | None = None
    seed: int = 0
    size: int = 2**20
    policy: Actor | None = None  # what makes actions of raw steps

    def acted_by(self, policy: Actor) -> Moves:
        self.policy = policy
        return self

    def tasks(self, ids: Tensor) -> Tasks:
        keys = ids + derive(self.seed, "states") % 2**40
        first = (2 * uniforms(keys, 0, self.states) - 1).to(torch.get_default_dtype())
        return Tasks(ids, {"_obs": first, "_exploration": torch.full((len(ids),), self.exploration)})

    def start(self, tasks: Tasks) -> Batch:
        count = len(tasks)
        none = {"_obs": torch.zeros(count, 0, self.states), "_action": torch.zeros(count, 0, self.actions)}
        return empty_batch(tasks, none)

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        assert self.policy is not None
        state, action = batch.row["_obs"], self.policy.emit(step)
        keys = batch.row["group"] * 1_000_003 + derive(self.seed, "noise") % 2**40
        chance = torch.special.ndtri(uniforms(keys, batch.steps, 1)[:, 0].clamp(1e-9, 1 - 1e-9)).to(state.dtype)
        reward = self.pay(state, action) + self.noise * chance
        last = batch.steps + 1 >= self.limit
        over = int(Finish.STOPPED if self.ends else Finish.TRUNCATED) if last else int(Finish.RUNNING)
        added = batch.append(
            {
                "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8)[:, None],
                "train": live[:, None],
                "behaviour": logp[:, None],
                "reward": reward[:, None],
                "version": torch.full((len(batch), 1), version),
                "_obs": state[:, None],
                "_action": step[:, None],
            }
        )
        return added.with_rows({"_obs": self.move(state, action), "finish": torch.full_like(batch.row["finish"], over)})

    def grade(self, batch: Batch) -> Tensor:
        """(B, T) the reward of every step."""
        return batch.step["reward"]

    def recorded(self, tasks: Tasks) -> Batch:
        """Episodes of the author, each a function of its task's number."""
        assert self.policy is not None
        assert self.author is not None
        # Noise follows the task: a recording is the same whenever it is read.
        batch = self.start(Tasks(tasks.id, {**tasks.row, "group": tasks.id}))
        while not bool(batch.done.all()):
            keys = tasks.id + derive(self.seed, "author") % 2**40
            action = self.author(batch.row["_obs"], uniforms(keys, batch.steps, self.actions).to(torch.float32))
            unknown = torch.full((len(batch),), torch.nan)
            batch = self.append(batch, self.policy.receive(action.clamp(-1, 1)), unknown, ~batch.done, 0)
        source = torch.full((len(batch),), int(Source.DATASET))
        return batch.with_rows({"source": source, "group": tasks.row["group"]})


def actor(world: Moves, head: str, seed: int, width: int = 32) -> Actor:
    """A small network for a world, which then takes its steps."""
    seen = spaces.Box(-np.inf, np.inf, (world.states,), np.float32)
    done = spaces.Box(-1.0, 1.0, (world.actions,), np.float32)
    made = new_actor(seen, done, head=head, body=MLP((width, width), "relu"), seed=derive(seed, "actor") >> 32)
    world.acted_by(made)
    return made


def flat_states(states: Tensor, actions: int) -> Batch:
    """States (N, S) as rows of one step, for asking models about them."""
    count = len(states)
    batch = empty_batch(Tasks(torch.arange(count), {"_obs": states}), {"_obs": torch.zeros(count, 0, states.shape[1])})
    batch = Batch(batch.row, {**batch.step, "_action": torch.zeros(count, 0, actions)})
    return batch.append({"kind": torch.ones(count, 1, dtype=torch.uint8), "_obs": states[:, None]})
