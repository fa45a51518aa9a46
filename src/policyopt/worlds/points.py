"""A point that must reach a goal round a disc: a small control world of tensors, any number of rows side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.ops.random import uniforms
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch


@dataclass(frozen=True)
class RoundDisc:
    """State: the place (2,), beginning left of a disc at the origin; actions (2,) in -1..1 are velocities.

    r = -|place - goal| - penalty if the disc was hit (the point stays at its rim). STOPPED within `near` of the goal,
    TRUNCATED after `limit` steps. Task n begins at the n-th height, -spread to spread.
    """

    limit: int = 16
    speed: float = 0.4
    radius: float = 0.7
    penalty: float = 1.0
    near: float = 0.2
    spread: float = 0.3
    size: int = 2**20
    goal: tuple[float, float] = (1.8, 0.0)

    def tasks(self, ids: Tensor) -> Tasks:
        height = (2 * uniforms(ids, 0, 1)[:, 0] - 1) * self.spread
        place = torch.stack([torch.full_like(height, -1.8), height], 1)
        return Tasks(ids, {"_obs": place.to(torch.get_default_dtype())})

    def start(self, tasks: Tasks) -> Batch:
        none = torch.zeros(len(tasks), 0, 2, device=tasks.id.device)
        batch = empty_batch(tasks, {"_obs": none, "_action": none})
        return batch.with_rows({"_moved": torch.zeros_like(tasks.id)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        place, hit = self.moved(batch.row["_obs"], step)
        distance = (place - place.new_tensor(self.goal)).norm(dim=1)
        reward = -distance - self.penalty * hit.to(distance.dtype)
        added = batch.append(
            {
                "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8)[:, None],
                "train": live[:, None],
                "behaviour": torch.where(live, logp, 0.0)[:, None],
                "reward": torch.where(live, reward, 0.0)[:, None],
                "version": torch.full((len(batch), 1), version, device=batch.device),
                "_obs": batch.row["_obs"][:, None],
                "_action": torch.where(live[:, None], step, 0.0)[:, None],
            }
        )
        count = batch.row["_moved"] + live.long()
        ended = torch.where(count >= self.limit, int(Finish.TRUNCATED), int(Finish.RUNNING))
        ended = torch.where(distance < self.near, int(Finish.STOPPED), ended)
        return added.with_rows(
            {
                "finish": torch.where(live, ended, batch.row["finish"]),
                "_obs": torch.where(live[:, None], place, batch.row["_obs"]),
                "_moved": count,
            }
        )

    def grade(self, batch: Batch) -> Tensor:
        """(B, T) the reward of every step."""
        return batch.step["reward"]

    def moved(self, place: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The place (N, 2) after an action (N, 2), and whether the disc was hit."""
        reached = place + self.speed * action.clamp(-1, 1).to(place)
        distance = reached.norm(dim=1, keepdim=True)
        hit = distance[:, 0] < self.radius
        rim = reached / distance.clamp(min=1e-6) * self.radius
        return torch.where(hit[:, None], rim, reached), hit

    def demonstrations(self, count: int, rng: torch.Generator, noise: float = 0.25) -> tuple[Tensor, Tensor]:
        """Observations and actions (M, 2) of `count` episodes of an expert that passes above or below by chance, with
        noisy actions and at half speed."""
        ids = torch.randint(self.size, (count,), generator=rng)
        place = self.tasks(ids).row["_obs"]
        side = torch.where(torch.rand(count, generator=rng) < 0.5, 1.0, -1.0)
        seen, taken = [], []
        for _ in range(2 * self.limit):
            action = self._expert(place, side) + noise * torch.randn(count, 2, generator=rng)
            seen.append(place)
            taken.append(action.clamp(-1, 1))
            place, _ = self.moved(place, taken[-1])
        return torch.cat(seen), torch.cat(taken)

    def _expert(self, place: Tensor, side: Tensor) -> Tensor:
        """Half speed towards a point beside the disc, then towards the goal."""
        beside = torch.stack([torch.zeros_like(side), side * 1.5 * self.radius], 1)
        goal = place.new_tensor(self.goal).expand_as(place)
        target = torch.where((place[:, 0] < -0.1)[:, None], beside, goal)
        way = target - place
        return 0.5 * way / (way.norm(dim=1, keepdim=True) + 0.05)

    @staticmethod
    def sides(batch: Batch) -> Tensor:
        """(B,) 1 for rows that passed above the disc, -1 below, 0 for rows that never got half way."""
        states = batch.step["_obs"]
        near = torch.where(batch.own, states[..., 0].abs(), math.inf)
        index = near.argmin(1)
        height = states[torch.arange(len(batch)), index, 1]
        return torch.where(near.min(1).values < 0.5, height.sign(), torch.zeros_like(height))
