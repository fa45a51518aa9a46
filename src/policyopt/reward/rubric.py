"""A judge whose rubric is a state of the run and is rewritten while the policy learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.ops.sequences import on_last
from policyopt.seen import asked
from policyopt.types import Batch, Round, concatenate

RUBRIC = Cell("rubric", lambda: {"text": None, "rows": None, "version": 0})
"""text: the rubric as the world writes it (plain data; None: the world's first one); rows: what was judged since it was
last rewritten; version: how often it was."""


@dataclass(frozen=True)
class RubricReward(Part):
    """A row's reward is the raw score of the world's judge under the present rubric; every `every` rounds a meta judge
    rewrites the rubric from `samples` of the rows judged since (MPO, arXiv 2504.20157).

    The world has both judges: `first_rubric()`, `judge_by(batch, rubric) -> (B,)`, `analyse(row, rubric)` of one row
    and its score, `refine(critique, rubric) -> rubric` and `merge(rubrics) -> rubric`; a rubric is plain data.
    `most(rubric)`, the largest score, if it has it, scales the metric `rubric_share`, since scores of different rubrics
    do not compare. every: None never rewrites.
    """

    every: int | None = 10
    samples: int = 20

    needs = "a world with a judge and its rubric"
    formula = "R_b = judge(row b | rubric); every k rounds: rubric <- merge_m refine(analyse(row m, rubric), rubric)"

    def __post_init__(self) -> None:
        if (self.every is not None and self.every < 1) or self.samples < 1:
            raise CompositionError(
                f"a rubric is rewritten every 1 or more rounds from 1 or more rows, not {self.every} and {self.samples}"
            )

    def present(self, ctx: Context) -> Any:
        """The rubric of this round."""
        text = ctx[RUBRIC]["text"]
        return asked(ctx.world, "first_rubric", "for a judge's rubric")() if text is None else text

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        rubric = self.present(ctx)
        score = asked(ctx.world, "judge_by", "to judge by a rubric")(batch, rubric).to(batch.step["reward"])
        scored = torch.isfinite(score)
        most = getattr(ctx.world, "most", None)
        if most is not None:
            ctx.meter.mean("rubric_share", score / most(rubric), scored)
        reward = on_last(batch, torch.where(scored, score, torch.zeros_like(score)))
        return batch.with_steps({"reward": reward}).with_rows({"scored": scored})

    def after(self, ctx: Context, done: Round) -> None:
        if self.every is None:
            return
        held, rubric = ctx[RUBRIC], self.present(ctx)
        judged = done.judged[done.judged.row["scored"]]
        rows = judged if held["rows"] is None else concatenate([part for part in (held["rows"], judged) if len(part)])
        if (ctx.stage_step + 1) % self.every or not len(rows):
            ctx[RUBRIC] = {**held, "rows": Batch(rows.row, rows.step)}
            return
        world: Any = ctx.world
        drawn = torch.randperm(len(rows), generator=ctx.rng("rubric"))[: self.samples]
        refined = [
            world.refine(world.analyse(rows[one : one + 1], rubric), rubric) for one in drawn.sort().values.tolist()
        ]
        ctx[RUBRIC] = {"text": world.merge(refined), "rows": None, "version": held["version"] + 1}
