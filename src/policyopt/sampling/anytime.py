"""Thoughts that are cut at several budgets and asked for an answer at every cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.pieces import pair_ids
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.seen import asked, rewinding
from policyopt.types import Batch, Finish, concatenate


@dataclass(frozen=True)
class Anytime(Part):
    """`size` thoughts of every task, of at most budgets[-1] steps; `answers` answers after each budget of each thought
    (AnytimeReasoner, arXiv 2505.13438). A thought that ends earlier is asked at its own end.

    The world's `conclude(batch)` tells rows to answer now. Row columns: `trace`, the thought of a row; `budget`, the
    number of the budget it was cut at, -1 for the thoughts themselves; `cut`, one id per thought and length. Step
    column `budget_of_step`: the first budget a thought's step is within. Of an answer only the answer is trained, of a
    thought only the thought.
    """

    size: int = 8
    budgets: tuple[int, ...] = (2000, 4000, 6000, 8000)
    answers: int = 4
    temperature: float = 1.0

    writes = ("trace", "budget", "cut", "budget_of_step")

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        rising = all(a < b for a, b in zip(self.budgets, self.budgets[1:], strict=False))
        if not self.budgets or self.budgets[0] < 1 or not rising or self.answers < 1:
            raise CompositionError(
                "need budgets of at least 1 that rise and at least one answer a cut, got "
                f"{self.budgets} and {self.answers}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        conclude = asked(ctx.world, "conclude", "to let rows answer at once")
        rewind = rewinding(ctx.world)
        thought = ctx.world.start(draw().repeat(self.size))
        trace = torch.arange(len(thought), device=thought.device)
        none = torch.full_like(trace, -1)
        thought = thought.with_rows({"trace": trace, "budget": none, "cut": none})
        thought = ctx.extend(thought, temperature=self.temperature, steps=self.budgets[-1])
        place = thought.valid.long().cumsum(1)
        within = torch.searchsorted(torch.tensor(self.budgets, device=place.device), place)
        thought = thought.with_steps({"budget_of_step": within.clamp(max=len(self.budgets) - 1)})
        cuts = []
        for number, budget in enumerate(self.budgets):
            kept = thought.valid.sum(1).clamp(max=budget)
            rows = rewind(thought, kept)
            columns = {"budget": torch.full_like(trace, number), "cut": kept}
            cuts.append(rows.with_rows(columns)[trace.repeat_interleave(self.answers)])
        asked_rows = concatenate(cuts)
        asked_rows = asked_rows.with_rows({"cut": pair_ids(asked_rows.row["trace"], asked_rows.row["cut"])})
        asked_rows = asked_rows.with_steps({"train": torch.zeros_like(asked_rows.step["train"])})
        answered = ctx.extend(conclude(asked_rows), temperature=self.temperature)
        over = torch.where(thought.done, thought.row["finish"], int(Finish.TRUNCATED))
        return judge(concatenate([thought.with_rows({"finish": over}), answered]))
