"""Windows of generation: every round goes on with what the last one left unfinished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from policyopt.compose import Cell, CompositionError, Context, Part, Seen
from policyopt.ops.masked import select
from policyopt.ops.sequences import total_reward
from policyopt.sampling.collected import with_columns_of
from policyopt.sampling.samplers import Draw, Judge
from policyopt.types import Batch, Finish, Round, concatenate

POOL = Cell("unfinished rows", list)
"""One Batch of rows that go on in the next round, or nothing."""


def fresh_steps(seen: Seen, batch: Batch) -> torch.Tensor:
    """Trained steps of this round's window."""
    return batch.trained & batch.step["fresh"]


def steps_of_finished(seen: Seen, batch: Batch) -> torch.Tensor:
    """All trained steps of rows that have ended."""
    return batch.trained & batch.done[:, None]


@dataclass(frozen=True)
class Windows(Part):
    """At most `steps` more steps of every row of a pool as large as the selection's count (T-PPO, arXiv 2506.15050):
    rows that are not done go on in the next round, with the log-probabilities that they were sampled with, and tasks
    that are drawn take the places of those that are. No round waits for its longest row.

    Step column `fresh`: taken in this round. paid: what the world pays for: whole "rows", of which unfinished ones are
    paid nothing yet, or "steps", whatever comes after them. The metric `reward` is of all rows, `reward_finished` of
    those that have ended.
    """

    steps: int = 1024
    temperature: float = 1.0
    paid: Literal["rows", "steps"] = "rows"

    writes = ("fresh",)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.temperature <= 0:
            raise CompositionError(f"need steps >= 1 and temperature > 0, got {self.steps} and {self.temperature}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        held: list[Batch] = list(ctx[POOL])
        missing = ctx.stage.selection.count - sum(map(len, held))
        if missing > 0:
            held.append(ctx.world.start(draw(missing)))
        begun = concatenate(held)
        before = begun.valid.sum(1)
        rows = ctx.extend(begun, temperature=self.temperature, steps=self.steps)
        fresh = rows.own & (rows.valid.cumsum(1) > before[:, None])
        ctx.meter.add("window", float(fresh.sum(1).max()), 1)
        ctx.meter.mean("unfinished", (~rows.done).float(), torch.ones_like(rows.done))
        judged = judge(rows)
        if self.paid == "rows":
            # What a grader says of half a row, or can not say, is no matter: it is paid nothing and trained on.
            over, known = judged.done, judged.done[:, None].expand_as(judged.own)
            train = torch.where(known, judged.step["train"], rows.step["train"])
            columns = {"reward": select(known, judged.step["reward"]), "train": train}
            judged = judged.with_steps(columns).with_rows({"scored": judged.row["scored"] | ~over})
        ctx.meter.mean("reward_finished", total_reward(judged), judged.done & judged.row["scored"])
        return judged.with_steps({"fresh": fresh})

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.judged[done.judged.row["finish"] == Finish.RUNNING]
        like = ctx.world.start(ctx.world.tasks(torch.zeros(1, dtype=torch.int64)))
        ctx[POOL] = [with_columns_of(rows, like)] if len(rows) else []
