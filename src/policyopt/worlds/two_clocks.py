"""Environment steps made of denoising steps: any control world, acted in by a denoising policy.

Every environment step is one chain: the draw of the initial noise and K transitions. Both clocks are flattened to T and
kept as columns: `clock_environment` (number of the environment step) and `clock_denoise` (0..K). The environment moves
when a chain is finished; its reward is that chain's last step's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.types import Batch, Finish, StepKind, Tasks
from policyopt.worlds.denoising import EVERY_STOCHASTIC, Trainable

OWN_STEP_COLUMNS = ("_latent", "_next", "_clock", "clock_denoise", "clock_environment")


def within(low: float | Tensor, high: float | Tensor) -> Callable[[Tensor], Tensor]:
    """Samples -1..1, clipped, as actions low..high: the `emit` of an environment that a denoising policy acts in."""

    def emit(sample: Tensor) -> Tensor:
        return low + (high - low) * (sample.clamp(-1, 1) + 1) / 2

    return emit


@dataclass(frozen=True)
class TwoClockWorld:
    """inner: a control world whose state is the column `_obs` and whose steps are the column `_action`, a vector. std:
    (K,) of the policy's chain. chunk: a sample is so many actions, executed one after another; their rewards add up.

    State: `_obs`, `_latent` and `_clock`. The policy is conditioned on "_obs". Every other row column is the inner
    world's own.
    """

    inner: Any
    std: Tensor
    dims: int
    chunk: int = 1
    trainable: Trainable = EVERY_STOCHASTIC

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.dims % self.chunk:
            raise ValueError(f"a sample of {self.dims} numbers does not hold {self.chunk} actions")

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def chain(self) -> int:
        """Steps of one chain: K + 1."""
        return len(self.std) + 1

    def tasks(self, ids: Tensor) -> Tasks:
        return self.inner.tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        batch = self.inner.start(tasks)
        latent = torch.zeros(len(batch), self.dims, device=batch.device)
        clock = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
        steps = dict.fromkeys(OWN_STEP_COLUMNS, clock[:, None][:, :0])
        steps |= {"_latent": latent[:, None][:, :0], "_next": latent[:, None][:, :0]}
        kept = {name: column for name, column in batch.step.items() if name != "_action"}
        return Batch({**batch.row, "_latent": latent, "_clock": clock, "_moves": clock}, {**kept, **steps})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        """One denoising step of every live row; the environments of rows whose chain it ends take their actions."""
        clock, moves = batch.row["_clock"], batch.row["_moves"]
        trained = self.trainable.steps(self.std).to(clock.device)[clock]
        latent = torch.where(live[:, None], step.to(batch.row["_latent"].dtype), batch.row["_latent"])
        acts = live & (clock + 1 == self.chain)
        added = batch.append(
            {
                "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8)[:, None],
                "train": (live & trained)[:, None],
                "behaviour": torch.where(live, logp, 0.0)[:, None],
                "version": torch.full_like(clock, version)[:, None],
                "_obs": batch.row["_obs"][:, None],
                "_latent": batch.row["_latent"][:, None],
                "_next": torch.where(live[:, None], latent, 0.0)[:, None],
                "_clock": clock[:, None],
                "clock_denoise": torch.where(live, clock, 0)[:, None],
                "clock_environment": torch.where(live, moves, 0)[:, None],
            }
        )
        row = {"_latent": latent, "_clock": clock + live.long()}
        if not bool(acts.any()):
            return added.with_rows(row)
        moved, reward = self._act(batch, latent, acts, version)
        paid = added.step["reward"].clone()
        paid[:, -1] = torch.where(acts, reward.to(paid.dtype), paid[:, -1])
        # The next chain begins: nothing is drawn yet.
        row["_latent"] = torch.where(acts[:, None], 0.0, latent)
        row["_clock"] = torch.where(acts, 0, row["_clock"])
        row["_moves"] = moves + acts.long()
        return added.with_rows({**moved, **row}).with_steps({"reward": paid})

    def grade(self, batch: Batch) -> Tensor:
        """(B, T) the reward of every step; only the last of a chain has one."""
        return batch.step["reward"]

    # -- the inner world ---------------------------------------------------------------------------------------------
    def _act(self, batch: Batch, sample: Tensor, acts: Tensor, version: int) -> tuple[dict[str, Tensor], Tensor]:
        """The inner world's row columns after the actions of a sample (B, D), and the sum of their rewards (B,)."""
        inner = self.seen_by_environment(batch)
        reward = torch.zeros(len(batch), dtype=torch.float64, device=batch.device)
        unknown = torch.zeros(len(batch), device=batch.device)
        for action in sample.view(len(batch), self.chunk, -1).unbind(1):
            live = acts & (inner.row["finish"] == Finish.RUNNING)
            inner = self.inner.append(inner, action, unknown, live, version)
            reward = reward + torch.where(live, inner.step["reward"][:, -1].to(reward.dtype), 0.0)
        row = {}
        for name, column in inner.row.items():
            old = batch.row[name]
            row[name] = torch.where(acts.view(-1, *(1,) * (column.dim() - 1)), column.to(old.dtype), old)
        return row, reward

    def seen_by_environment(self, batch: Batch) -> Batch:
        """The same rows with environment steps only, packed to the left: what the inner world knows of them. With
        chunks, every action of a chunk is a step, and its observation that before the chunk."""
        acted = batch.own & (batch.step["clock_denoise"] == self.chain - 1)
        count = acted.sum(1)
        width = int(count.max()) if len(batch) else 0
        order = (~acted).long().argsort(dim=1, stable=True)[:, :width]
        rows = torch.arange(len(batch), device=batch.device)[:, None]
        kept = torch.arange(width, device=batch.device) < count[:, None]
        names = [name for name in batch.step if name not in OWN_STEP_COLUMNS]
        step = {name: batch.step[name][rows, order].repeat_interleave(self.chunk, 1) for name in names}
        step["kind"] = torch.where(kept.repeat_interleave(self.chunk, 1), step["kind"], int(StepKind.PAD)).to(
            torch.uint8
        )
        step["_action"] = batch.step["_next"][rows, order].reshape(
            len(batch), width * self.chunk, self.dims // self.chunk
        )
        row = {name: column for name, column in batch.row.items() if name not in ("_latent", "_clock", "_moves")}
        return Batch(row, step)
