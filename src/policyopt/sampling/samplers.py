"""Groups of attempts, resampling until groups are informative, recorded rows and pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import informative
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch, Tasks, concatenate

Draw = Callable[..., Tasks]
Judge = Callable[[Batch], Batch]


def attempt(ctx: Context, tasks: Tasks, size: int, temperature: float, model: str = "policy") -> Batch:
    """`size` finished attempts of every task by a model, side by side in the task's group."""
    return ctx.extend(ctx.world.start(tasks.repeat(size)), model, temperature)


@dataclass(frozen=True)
class Group(Part):
    """`size` attempts of every task at a temperature (log-probabilities are those of the tempered policy).

    model: who writes them: the policy, or another model of the run.
    """

    size: int = 8
    temperature: float = 1.0
    model: str = "policy"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise CompositionError(f"sampling.size must be at least 1, not {self.size}")
        if self.temperature <= 0:
            raise CompositionError(
                f"sampling.temperature must be above 0, not {self.temperature}: a greedy policy has no gradient"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        return judge(attempt(ctx, draw(), self.size, self.temperature, self.model))


@dataclass(frozen=True)
class DynamicSampling(Part):
    """Draw again until as many groups as were asked for have rewards that differ (DAPO, arXiv 2503.14476, eq. 11).

    Groups of equal rewards are dropped, so the metric `reward` is that of the others; `reward_drawn` is that of all.
    After `most_draws` rounds of sampling what was found is returned, so an all-solved or all-failed task set ends the
    search instead of hanging.
    """

    size: int = 16
    temperature: float = 1.0
    most_draws: int = 4

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.most_draws < 1:
            raise CompositionError(f"sampling.most_draws must be at least 1, not {self.most_draws}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        wanted, drawn, groups, found = len(tasks), 0, 0, []
        while True:
            batch = judge(attempt(ctx, tasks, self.size, self.temperature))
            drawn += len(tasks)
            ctx.meter.mean("reward_drawn", total_reward(batch), batch.row["scored"])
            differ = informative(total_reward(batch), batch.row["group"], batch.row["scored"])
            found.append(batch[differ])
            groups += len(found[-1].row["group"].unique())
            if groups >= wanted or drawn >= self.most_draws * wanted:
                break
            tasks = draw(wanted)
        ctx.meter.add("informative_groups", groups, drawn)
        if not groups:
            return batch  # nothing to learn from: advantages are zero, and metrics still see the rows
        rows = concatenate(found)
        keep = rows.row["group"].unique()[:wanted]
        return rows[(rows.row["group"][:, None] == keep).any(1)]


@dataclass(frozen=True)
class Recorded(Part):
    """Rows of a data set; no policy generates anything, so behaviour log-probabilities are unknown (nan)."""

    data = "rows"

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        return judge(ctx.world.recorded(draw()))


@dataclass(frozen=True)
class RecordedPairs(Part):
    """Preference pairs of a data set: two rows each, with columns `pair` and `rank`; or lists, of ranks 0, 1, 2 ...

    columns: row or step columns that the data's pairs have beside these (`label`, how severe an error is ...).
    """

    columns: tuple[str, ...] = ()

    data = "pairs"

    @property
    def writes(self) -> tuple[str, ...]:
        return ("pair", "rank", *self.columns)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        return judge(ctx.world.recorded_pairs(draw()))
