"""Several named rewards of one row, each in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.schedules import Shape, progress, ramp
from policyopt.ops.sequences import on_last, total_reward
from policyopt.types import Batch


def _given(ctx: Context, batch: Batch) -> Mapping[str, Tensor]:
    if not hasattr(ctx.world, "grade_heads"):
        raise CompositionError(
            f"rewards by head need a world with several rewards; {type(ctx.world).__name__} has one: use "
            "reward=verified"
        )
    return ctx.world.grade_heads(batch)


def _known(
    given: Mapping[str, Tensor], names: tuple[str, ...], batch: Batch
) -> tuple[Float[Tensor, "H B"], Bool[Tensor, " B"]]:
    """Grades by name with 0 for rows that a grader failed on (nan), and the rows that all of them could grade."""
    grades = torch.stack([given[name].to(batch.step["reward"]) for name in names])
    scored = torch.isfinite(grades).all(0)
    return torch.where(scored, grades, torch.zeros_like(grades)), scored


def _columns(batch: Batch, names: tuple[str, ...], grades: Tensor) -> dict[str, Tensor]:
    return {f"reward:{name}": on_last(batch, grade) for name, grade in zip(names, grades, strict=True)}


@dataclass(frozen=True)
class HeadRewards(Part):
    """The world's grades by name (`grade_heads`): columns `reward:NAME` on the last own step; `reward` is their plain
    sum, for metrics. A row that one grader failed on (nan) is unscored."""

    names: tuple[str, ...] = ("reward",)

    needs = "a world that grades rows by several names"
    formula = "R_b^h = grade_h(row b), R_b = sum_h R_b^h"

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(f"reward:{name}" for name in self.names)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        given = _given(ctx, batch)
        if set(given) != set(self.names):
            raise CompositionError(f"reward.names must be the world's rewards {sorted(given)}, not {self.names}")
        grades, scored = _known(given, self.names, batch)
        columns = _columns(batch, self.names, grades)
        return batch.with_steps({**columns, "reward": on_last(batch, grades.sum(0))}).with_rows({"scored": scored})


@dataclass(frozen=True)
class HeadSum(Part):
    """A weighted sum of the world's grades by name (`grade_heads`) as one reward on the last own step; the grades
    themselves stay in columns `reward:NAME`. A row that one of these graders failed on (nan) is unscored.

    weights: of the first round. final: of the last round, for names whose weight changes on the way, along `shape`.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"reward": 1.0})
    final: Mapping[str, float] = field(default_factory=dict)
    shape: Shape = "cosine"

    needs = "a world that grades rows by several names"
    formula = "R_b = sum_h w_h grade_h(row b), w_h from weights to final over the rounds"

    def __post_init__(self) -> None:
        if not self.weights or not set(self.final) <= set(self.weights):
            raise CompositionError(
                f"weights need at least one name, and final only names among them; got {sorted(self.weights)} and "
                f"{sorted(self.final)}"
            )

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(f"reward:{name}" for name in self.weights)

    def at(self, share: float) -> dict[str, float]:
        """Weights by name at a share 0..1 of the rounds."""
        return {
            name: ramp(first, self.final.get(name, first), share, self.shape) for name, first in self.weights.items()
        }

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        given, names = _given(ctx, batch), tuple(self.weights)
        missing = [name for name in names if name not in given]
        if missing:
            raise CompositionError(f"reward.weights name {missing}, which are not among the rewards {sorted(given)}")
        grades, scored = _known(given, names, batch)
        weights = self.at(progress(ctx.stage_step, ctx.stage_total))
        for name, grade in zip(names, grades, strict=True):
            ctx.meter.mean(f"reward:{name}", grade, scored)
        total = sum((weights[name] * grade for name, grade in zip(names, grades, strict=True)), grades.new_zeros(()))
        columns = {**_columns(batch, names, grades), "reward": on_last(batch, total)}
        return batch.with_steps(columns).with_rows({"scored": scored})


def fuzzy(error: Float[Tensor, " B"], limit: float, most: float) -> Float[Tensor, " B"]:
    """most - error below the limit, 0 from there on."""
    return torch.where(error < limit, most - error, torch.zeros_like(error))


@dataclass(frozen=True)
class FuzzyError(Part):
    """Adds a reward that grows as a relative error shrinks (CrowdVLM-R1, arXiv 2504.03724): `most` less the error, and
    nothing from an error of `limit` on. head: the name of the error among the world's grades."""

    head: str = "error"
    limit: float = 0.5
    most: float = 1.5

    formula = "R_b += (most - e_b) 1[e_b < limit], e_b = |y - yhat_b| / y"

    def __post_init__(self) -> None:
        if self.limit <= 0 or self.most < self.limit:
            raise CompositionError(
                f"the limit must be above 0 and at most `most`, so that no reward is negative; got {self.limit} and "
                f"{self.most}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"reward:{self.head}",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        error = total_reward(batch, f"reward:{self.head}")
        worth = torch.where(batch.row["scored"], fuzzy(error, self.limit, self.most), 0.0)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, worth)})
