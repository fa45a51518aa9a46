"""Task orders that learn: which tasks are drawn depends on how earlier attempts at them came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.diversity import distinct_share, edit_diversity
from policyopt.ops.sequences import on_last, own_choices, total_reward
from policyopt.remembered import TASKS, by_task, note, noted, recall
from policyopt.selection.tasks import in_epochs
from policyopt.types import Batch, Round, Source, Tasks

RIGHT, WRONG = "evidence of right rows", "evidence of wrong rows"
FRESH_OUTCOME, FRESH_DIVERSITY = "outcome variance, latest", "diversity, latest"
OUTCOME, DIVERSITY = "outcome variance", "diversity"
REACHABLE, PROBED = "successes of the starting policy", "attempts of the starting policy"
"""Names of what is remembered of tasks."""


def attempts(batch: Batch, right: float) -> tuple[Tensor, Tensor, Tensor]:
    """The tasks that were attempted, each once, their scored rows sampled in this round, and how many are right."""
    rows = batch[batch.row["scored"] & (batch.row["source"] == Source.POLICY)]
    ids, count = by_task(rows.row["task"], torch.ones(len(rows), device=batch.device))
    return ids, count, by_task(rows.row["task"], (total_reward(rows) > right).double())[1]


def draw_beta(a: Tensor, b: Tensor, rng: torch.Generator) -> Tensor:
    """One number from each Beta(a, b), a and b (N,) of at least 1."""
    first, second = (torch._standard_gamma(x, rng) for x in (a, b))  # pyright: ignore[reportPrivateImportUsage]
    return first / (first + second)


def information(theta: Tensor, kind: str) -> Tensor:
    """theta (1 - theta); its part of the right rows, theta (1 - theta)^2; the entropy of a coin; the same for all."""
    if kind == "variance":
        return theta * (1 - theta)
    if kind == "right_rows":
        return theta * (1 - theta) ** 2
    return torch.special.entr(theta) + torch.special.entr(1 - theta) if kind == "entropy" else torch.ones_like(theta)


@dataclass(frozen=True)
class ThompsonTasks(Part):
    """VADE (arXiv 2511.18902): every task has a Beta posterior over the share of right rows; a number theta is drawn
    from each, and the `count` tasks of largest information theta (1 - theta) are asked (ties: at random; more tasks
    than there are: all of them, then the best of another draw).

    After a round evidence fades: that of every task by `fading`, that of attempted tasks again by `fading_attempted`
    before their right and wrong rows are added. Both 1: the exact posterior. right: reward above which a row is right.
    """

    fading: float = 0.99
    fading_attempted: float = 0.9
    information: Literal["variance", "right_rows", "entropy", "constant"] = "variance"
    right: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.fading <= 1 and 0 <= self.fading_attempted <= 1):
            raise CompositionError(f"fading is a factor in 0..1, got {self.fading} and {self.fading_attempted}")

    def __call__(self, ctx: Context, count: int) -> Tasks:
        size, rng, found = ctx.world.size, ctx.rng("thompson"), []
        for left in range(count, 0, -size):
            theta = draw_beta(1 + noted(ctx, RIGHT, size), 1 + noted(ctx, WRONG, size), rng)
            gain = information(theta, self.information)
            order = torch.randperm(size, generator=rng)
            found.append(order[gain[order].argsort(descending=True, stable=True)[:left]])
        return ctx.world.tasks(torch.cat(found))

    def after(self, ctx: Context, done: Round) -> None:
        ids, count, hits = attempts(done.judged, self.right)
        for name, found in ((RIGHT, hits), (WRONG, count - hits)):
            known = torch.arange(len(ctx[TASKS].get(name, ())))
            note(ctx, name, known, self.fading * noted(ctx, name, len(known)))
            note(ctx, name, ids, self.fading_attempted * recall(ctx, name, ids) + found)


@dataclass(frozen=True)
class PromisingTasks(Part):
    """MMR1 (arXiv 2509.21268): floor(share count) tasks are drawn in proportion to their score, with replacement, the
    others uniformly without (again from all once all were drawn), and both are mixed at random. Score: outcome
    p (1 - p) + diversity TDS, of the task's latest rows, renewed every `every` rounds; if no task has a score above 0,
    all are alike.

    TDS: share of different runs of `span` steps among those of a task's rows ("distinct"), or the mean edit distance of
    pairs of rows over the length of the longer ("edit"). right: reward above which a row is right.
    """

    share: float = 0.5
    outcome: float = 1.0
    diversity: float = 0.0
    every: int = 4
    measure: Literal["distinct", "edit"] = "distinct"
    span: int = 3
    right: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or min(self.outcome, self.diversity) < 0 or min(self.every, self.span) < 1:
            raise CompositionError(
                "need a share in 0..1, weights of 0 or more, every and span of 1 or more, got "
                f"{self.share}, {self.outcome}, {self.diversity}, {self.every} and {self.span}"
            )

    def scores(self, ctx: Context) -> Tensor:
        """(N,) of all tasks."""
        size = ctx.world.size
        return self.outcome * noted(ctx, OUTCOME, size) + self.diversity * noted(ctx, DIVERSITY, size)

    def __call__(self, ctx: Context, count: int) -> Tasks:
        size, rng = ctx.world.size, ctx.rng("promising")
        chosen = int(count * self.share + 1e-9)
        scores = self.scores(ctx)
        scores = scores if bool((scores > 0).any()) else torch.ones_like(scores)
        drawn = [torch.randperm(size, generator=rng)[:left] for left in range(count - chosen, 0, -size)]
        if chosen:
            drawn.append(torch.multinomial(scores, chosen, replacement=True, generator=rng))
        mixed = torch.cat(drawn)
        return ctx.world.tasks(mixed[torch.randperm(count, generator=rng)])

    def after(self, ctx: Any, done: Round) -> None:
        ids, count, hits = attempts(done.judged, self.right)
        rate = hits / count.clamp(min=1)
        note(ctx, FRESH_OUTCOME, ids, rate * (1 - rate))
        if self.diversity:
            rows = done.judged
            taken = own_choices(ctx.models["policy"], rows)
            measured = [self.measured([row[row >= 0].tolist() for row in taken[rows.row["task"] == i]]) for i in ids]
            note(ctx, FRESH_DIVERSITY, ids, torch.tensor(measured, dtype=torch.float64))
        if (ctx.stage_step + 1) % self.every == 0:
            for fresh, held in ((FRESH_OUTCOME, OUTCOME), (FRESH_DIVERSITY, DIVERSITY)):
                known = torch.arange(len(ctx[TASKS].get(fresh, ())))
                note(ctx, held, known, noted(ctx, fresh, len(known)))

    def measured(self, rows: list[list[int]]) -> float:
        return distinct_share(rows, self.span) if self.measure == "distinct" else edit_diversity(rows)


@dataclass(frozen=True)
class RightRows(Part):
    """Only rows whose reward exceeds `right` (rejection sampling)."""

    right: float = 0.5

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch[batch.row["scored"] & (total_reward(batch) > self.right)]


@dataclass(frozen=True)
class ReachableTasks(Part):
    """Tasks in epochs of random order, only those that `Probed` found reachable: at least `least` of its attempts
    succeeded. If none is, all are drawn."""

    least: int = 1

    def __call__(self, ctx: Context, count: int) -> Tasks:
        kept = (noted(ctx, REACHABLE, ctx.world.size) >= self.least).nonzero()[:, 0]
        kept = kept if len(kept) else torch.arange(ctx.world.size)
        return in_epochs(ctx, kept, count, "reachable")


@dataclass(frozen=True)
class Probed(Part):
    """Before the first round of a stage, `attempts` rows of every task by the policy as it then is; how many exceed
    the reward `right` is remembered for `ReachableTasks`. score: the row column that says how well a task was done,
    apart from rewards for form; "" is the total reward."""

    attempts: int = 16
    right: float = 0.0
    score: str = ""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise CompositionError(f"attempts must be at least 1, not {self.attempts}")

    def __call__(self, ctx: Context) -> None:
        if ctx.stage_step:
            return
        tasks = ctx.world.tasks(torch.arange(ctx.world.size)).to(next(ctx.models["policy"].parameters()).device)
        rows = ctx.extend(ctx.world.start(tasks.repeat(self.attempts)))
        rows = ctx.stage.reward(ctx, rows)
        if self.score:
            rows = rows.with_steps({"reward": on_last(rows, rows.row[self.score].to(rows.step["reward"]))})
        ids, count, hits = attempts(rows, self.right)
        note(ctx, REACHABLE, ids, hits)
        note(ctx, PROBED, ids, count)
