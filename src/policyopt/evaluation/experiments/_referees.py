"""Items of hidden quality: a player chooses one, a referee scores several."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.reward.referee import rank_agreement
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch

LEVELS = 5


@dataclass(frozen=True)
class Items:
    """quality (I,) in 0..1; pairs (M, 2) of items to be compared. Tasks: the pairs, then `players` open-ended ones.

    A row goes through a plan of states: a player's own (choices are the items), or those of the items that a referee
    scores one after another (choice c is the level c LEVELS / I, rounded down). States: players, then items.
    """

    quality: Tensor
    pairs: Tensor
    players: int

    @property
    def size(self) -> int:
        return len(self.pairs) + self.players

    @property
    def states(self) -> int:
        return self.players + len(self.quality)

    def kinds(self) -> list[str]:
        return ["preference"] * len(self.pairs) + ["open"] * self.players

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        opened = tasks.id >= len(self.pairs)
        plan = torch.full((len(tasks), 2), -1)
        plan[opened, 0] = tasks.id[opened] - len(self.pairs)
        plan[~opened] = self.players + self.pairs[tasks.id[~opened]]
        return self.planned(tasks, plan)

    def planned(self, tasks: Tasks, plan: Tensor) -> Batch:
        none = torch.zeros(len(tasks), 0, dtype=torch.int64)
        wide = torch.full((len(tasks), 64), -1)
        wide[:, : plan.shape[1]] = plan
        batch = empty_batch(tasks, {"_state": none, "_step": none})
        return batch.with_rows({"_plan": wide, "_state": plan[:, 0]})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        place = batch.steps
        taken = {
            "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8),
            "train": live,
            "behaviour": torch.where(live, logp, 0.0),
            "version": torch.full_like(step, version),
            "_state": batch.row["_state"],
            "_step": torch.where(live, step, 0),
        }
        following = batch.row["_plan"][:, place + 1]
        over = live & (following < 0)
        rows = {
            "finish": torch.where(over, int(Finish.STOPPED), batch.row["finish"]),
            "_state": torch.where(live & ~over, following, batch.row["_state"]),
        }
        return batch.append({name: column[:, None] for name, column in taken.items()}).with_rows(rows)

    def scores(self, batch: Batch) -> Tensor:
        """(B, T) in 0..1; nan beyond a row's end."""
        said = (batch.step["_step"] * LEVELS // len(self.quality)).float() / (LEVELS - 1)
        return torch.where(batch.valid, said, torch.nan)

    def open_ended(self, batch: Batch) -> Tensor:
        return batch.row["task"] >= len(self.pairs)

    def referee(self, rows: Batch) -> Batch:
        """Scores the items that these rows chose."""
        tasks = Tasks(rows.row["task"][:1], {"group": rows.row["group"][:1]})
        return self.planned(tasks, (self.players + rows.step["_step"][:, 0])[None])

    def grade(self, batch: Batch) -> Tensor:
        pair = self.pairs[batch.row["task"].clamp(max=len(self.pairs) - 1)]
        said = self.scores(batch)
        if said.shape[1] < 2:
            return torch.zeros(len(batch))
        return torch.where(self.open_ended(batch), 0.0, rank_agreement(said[:, :2].nan_to_num(0.0), self.quality[pair]))
