"""The world of denoising chains: latents move by what the policy draws; the reward is of the finished sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.types import Batch, Finish, Source, StepKind, Tasks, empty_batch

Reward = Callable[[Tensor, Tensor], Tensor | Mapping[str, Tensor]]
"""(samples (B, D), task ids (B,)) -> rewards (B,), or one (B,) for each of several named heads."""


@dataclass(frozen=True)
class Trainable:
    """Which steps of a chain are trained by default.

    last: only the last so many of its stochastic transitions (None: all). prior: the draw of the initial noise too.
    """

    last: int | None = None
    prior: bool = False

    def steps(self, std: Tensor) -> Tensor:
        """(K + 1,) bool from the stds of the K transitions. A deterministic step has no density and is never one."""
        random = std > 0
        if self.last is not None:
            behind = random.flip(0).cumsum(0).flip(0)
            random = random & (behind <= self.last)
        return torch.cat([torch.tensor([self.prior]), random])


EVERY_STOCHASTIC = Trainable()


@dataclass(frozen=True)
class DenoisingWorld:
    """`size` tasks (prompts). A row is one chain: step 0 draws the initial noise, steps 1..K are the transitions.

    std: (K,) of the policy's chain (`policy.chain.std`): says how many steps there are and which have a density. dims:
    D. reward: see `Reward`; heads add up in `grade` and come apart in `grade_heads`. conditions: (size,) ids or (size,
    C) vectors given to the policy, in the row column `condition`. samples: (size, D) a recorded sample per task, for
    `recorded`.
    State: `_latent` and `_clock`, the number of the next step; step column `_next`: the latent that was drawn;
    `clock_denoise`: the number of the step, 0..K.
    """

    std: Tensor
    dims: int
    size: int
    reward: Reward | None = None
    conditions: Tensor | None = None
    samples: Tensor | None = None
    trainable: Trainable = EVERY_STOCHASTIC
    condition: str = "_condition"

    def __post_init__(self) -> None:
        for name, column in (("conditions", self.conditions), ("samples", self.samples)):
            if column is not None and len(column) != self.size:
                raise ValueError(f"{name} needs a row for each of the {self.size} tasks, it has {len(column)}")

    @property
    def limit(self) -> int:
        """Steps of a row: K + 1."""
        return len(self.std) + 1

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids, {} if self.conditions is None else {self.condition: self.conditions.to(ids.device)[ids]})

    def start(self, tasks: Tasks) -> Batch:
        count = len(tasks)
        latent = torch.zeros(count, self.dims, device=tasks.id.device)
        clock = torch.zeros(count, dtype=torch.int64, device=tasks.id.device)
        steps = {"_latent": latent[:, None][:, :0], "_next": latent[:, None][:, :0], "_clock": clock[:, None][:, :0]}
        batch = empty_batch(tasks, {**steps, "clock_denoise": clock[:, None][:, :0]})
        return batch.with_rows({"_latent": latent, "_clock": clock})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        """One step of every live row; rows may be at different steps of their chains."""
        clock = batch.row["_clock"]
        trained = self.trainable.steps(self.std).to(clock.device)[clock.clamp(max=self.limit - 1)]
        latent = torch.where(live[:, None], step.to(batch.row["_latent"].dtype), batch.row["_latent"])
        added = batch.append(
            {
                "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8)[:, None],
                "train": (live & trained)[:, None],
                "behaviour": torch.where(live, logp, 0.0)[:, None],
                "version": torch.full_like(clock, version)[:, None],
                "_latent": batch.row["_latent"][:, None],
                "_next": torch.where(live[:, None], latent, 0.0)[:, None],
                "_clock": clock[:, None],
                "clock_denoise": torch.where(live, clock, 0)[:, None],
            }
        )
        moved = clock + live.long()
        stopped = live & (moved == self.limit)
        finish = torch.where(stopped, int(Finish.STOPPED), batch.row["finish"])
        return added.with_rows({"_latent": latent, "_clock": moved, "finish": finish})

    # -- rewards -------------------------------------------------------------------------------------------------
    def grade_heads(self, batch: Batch) -> dict[str, Tensor]:
        """{name: (B,)}: every reward apart; a single one is called "reward"."""
        if self.reward is None:
            raise ValueError("this world has no reward; give DenoisingWorld(reward=...)")
        given = self.reward(batch.row["_latent"], batch.row["task"])
        return dict(given) if isinstance(given, Mapping) else {"reward": given}

    def grade(self, batch: Batch) -> Tensor:
        """(B,): the sum of all heads."""
        return torch.stack(list(self.grade_heads(batch).values())).sum(0)

    # -- data ----------------------------------------------------------------------------------------------------
    def recorded(self, tasks: Tasks) -> Batch:
        """Recorded samples: rows of one trained step that nobody drew, finished, whose latent is the sample."""
        if self.samples is None:
            raise ValueError("this world has no recorded samples; give DenoisingWorld(samples=...)")
        batch = self.start(tasks)
        sample = self.samples.to(batch.row["_latent"])[tasks.id]
        last = torch.full_like(batch.row["_clock"], self.limit - 1)
        unknown = torch.full_like(sample[:, 0], float("nan"))
        every = torch.ones_like(last, dtype=torch.bool)
        rows = self.append(batch.with_rows({"_clock": last}), sample, unknown, every, 0)
        rows = rows.with_steps({"train": torch.ones_like(rows.step["train"])})
        return rows.with_rows({"source": torch.full_like(last, int(Source.DATASET))})
