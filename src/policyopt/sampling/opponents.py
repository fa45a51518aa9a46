"""Rows to be compared with: of another model, of a data set, or of the policy as it was in earlier rounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.sampling.store import fresh, replayed, store, stored
from policyopt.types import Batch, Round, Source, Tasks, concatenate

RECORDED = "recorded rows"
EARLIER = "earlier rows"
"""Names of opponents that no model of the run writes."""


def marked(batch: Batch, *, opponent: bool) -> Batch:
    """With the row column `opponent`; opponents are not trained."""
    rows = batch.with_rows({"opponent": torch.full_like(batch.row["scored"], opponent)})
    return rows.with_steps({"train": torch.zeros_like(rows.step["train"])}) if opponent else rows


@dataclass(frozen=True)
class GroupAgainst(Part):
    """`size` attempts of every task, judged in one group with `opponents` rows that the row column `opponent` marks.
    These leave when the group is judged: credit, selection and update see the policy's own rows only.

    by: who writes them: a model of the run ("policy", a frozen or averaged copy, a mixture of two), RECORDED (the
    world's recorded row of the task) or EARLIER (rows of the task of earlier rounds, the newest of `kept` per task; a
    task without any meets its own group).
    """

    size: int = 1
    opponents: int = 1
    by: str = "policy"
    kept: int = 64
    temperature: float = 1.0

    writes = ("opponent",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.opponents < 1 or self.kept < 1:
            raise CompositionError(f"need at least one opponent and row kept, got {self.opponents} and {self.kept}")

    @property
    def data(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "rows" if self.by == RECORDED else ""

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        own = attempt(ctx, tasks, self.size, self.temperature)
        batch = [marked(own, opponent=False), *(marked(rows, opponent=True) for rows in self.met(ctx, tasks, own))]
        judged = judge(concatenate(batch))
        return judged[~judged.row["opponent"]]

    def met(self, ctx: Context, tasks: Tasks, own: Batch) -> list[Batch]:
        """The opponents, in the groups of the tasks."""
        if self.by == RECORDED:
            return [ctx.world.recorded(tasks.repeat(self.opponents))]
        if self.by != EARLIER:
            rows = attempt(ctx, tasks, self.opponents, self.temperature, self.by)
            source = torch.full_like(rows.row["source"], int(Source.INJECTED))
            return [rows.with_rows({"source": source})]
        found, rng = [], ctx.rng("earlier rows")
        for task, group in zip(tasks.id.tolist(), tasks.row["group"].tolist(), strict=True):
            held = stored(ctx, task)
            known = own[own.row["group"] == group] if held is None else held
            pick = self.drawn(len(known), rng).to(own.device)
            found.append(replayed(known[pick], group, own))
        return found

    def drawn(self, count: int, rng: torch.Generator) -> Tensor:
        """Different ones as long as there are enough."""
        orders = [torch.randperm(count, generator=rng) for _ in range(-(-self.opponents // count))]
        return torch.cat(orders)[: self.opponents]

    def after(self, ctx: Context, done: Round) -> None:
        if self.by == EARLIER:
            store(ctx, fresh(done.judged), self.kept)


@dataclass(frozen=True)
class OneOfEach(Part):
    """An attempt of every task by each of some models, side by side in one group, in the order of their names."""

    models: tuple[str, ...] = ("policy", "previous")
    temperature: float = 1.0

    def __post_init__(self) -> None:
        Group(len(self.models), self.temperature)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        # Begun together: the rows of a group meet chances of their own.
        begun, count = ctx.world.start(draw().repeat(len(self.models))), len(self.models)
        rows = [ctx.extend(begun[n::count], model, self.temperature) for n, model in enumerate(self.models)]
        return judge(concatenate(rows))
