"""Knobs of preferences between contexts, of matched orders, of searched siblings and of planned tables."""

import dataclasses
from typing import Any

import torch
from knobs_reward_models import value
from test_dead_knobs import Knob
from torch import Tensor

import cases
from asked import asking, sampled
from policyopt.objective.contrasted import ContextPreference
from policyopt.objective.ordered import SortedMargins, SortedSides
from policyopt.objective.reward_models import RowTarget
from policyopt.policies.tabular import Table
from policyopt.sampling.opponents import OneOfEach
from policyopt.sampling.siblings import JudgedSiblings, RolloutSiblings
from policyopt.selection.deficient import PERPLEXITY, DeficientTasks, Perplexities
from policyopt.types import Tasks
from policyopt.update.optimistic import COUNTED
from policyopt.update.planned import COMPARED, PessimisticChoices, RandomisedPlan
from policyopt.worlds.sequences import SequenceWorld
from support import context, full_step, method, numbers

WORLD = SequenceWorld(
    5,
    3,
    6,
    lambda s, t: (s > 0).double().sum(1) / 6 + 0.01 * t,
    judge=lambda s, t: 0.1 + 0.4 * s.clamp(min=0).double(),
    recordings=torch.arange(30).view(5, 6) % 3,
)


CHOICES = torch.tensor([1, 2, 1, 0, 1, 1, 2, 1, 1, 1, 0, 2]).repeat(3)


def loss(key: str) -> Any:
    def found(part: Any) -> Tensor:
        case = dataclasses.replace(cases.CASES[key], loss=part)
        whole, gradient = full_step(case.context(), cases.rich())
        return torch.cat([whole[None], gradient.flatten()])

    return found


def searched(part: Any) -> Tensor:
    """What the pairs are, and how sure."""
    batch = sampled(asking(part, WORLD, Table(numbers(30, 3, seed=2)), count=5))
    return torch.cat([batch.step["behaviour"].flatten(), batch.row["doubt"], batch.trained.sum(1).double()])


def two(part: Any) -> Tensor:
    table = Table(numbers(30, 3, seed=2))
    ctx = asking(part, WORLD, table)
    ctx.run.models["previous"] = Table(numbers(30, 3, seed=3))
    return sampled(ctx).step["behaviour"].flatten()


def perplexities(part: Any) -> Tensor:
    """The notes after two rounds between which the policy changes, and calls of the policy."""
    policy = Table(numbers(30, 3, seed=2))
    ctx, calls = asking(RolloutSiblings(), WORLD, policy), []
    policy.score, score = lambda *a, **k: calls.append(1) or score(*a, **k), policy.score
    for _ in range(2):
        part(ctx)
        ctx.run.step += 1
        policy.logits.data += numbers(30, 3, seed=4)
    return torch.cat([ctx.run.cells["tasks"][PERPLEXITY], torch.tensor([float(len(calls))])])


def deficient(part: Any) -> Tensor:
    ctx = asking(RolloutSiblings(), WORLD)
    Perplexities()(asking(RolloutSiblings(), WORLD, Table(numbers(30, 3, seed=2))))
    ctx.run.cells["tasks"] = {PERPLEXITY: torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0])}
    return part(ctx, 10).id.double()


def planned(part: Any) -> Tensor:
    """Values of the plan after a round of rows, and how many comparisons were asked for."""
    ctx = context(method(update=part), {"policy": Table(torch.zeros(30, 3))}, WORLD)
    rows = WORLD.complete(Tasks(torch.zeros(6, dtype=torch.int64)), CHOICES.view(6, 6))
    rows = rows.with_rows({"pair": torch.arange(6) // 2, "rank": torch.arange(6) % 2})
    part(ctx, rows)
    values = part.plan(ctx, rows, ctx[COUNTED])
    return torch.cat([values.flatten(), torch.tensor([float(len(held)) for held in ctx[COMPARED].values()])])


SEARCH = {"iterations": 1, "depth": 2, "steps": 1, "exploration": 9.0, "length_power": 4.0, "temperature": 0.3}
SMALL = {"iterations": 4, "branching": (3, 2), "steps": 2}
PLAN = {"ridge": 0.1, "horizon": 3, "largest": 0.1}

KNOBS = (
    Knob(ContextPreference(0.3, other="old", other_anchor="teacher"), loss("contexts"), {"beta": 0.6}),
    Knob(
        JudgedSiblings(**SMALL, first=2),
        searched,
        {**SEARCH, "first": 1, "gamma": 0.2, "confidence": 0.0, "right": 5.0},
    ),
    Knob(RolloutSiblings(**SMALL), searched, {**SEARCH, "margin": 0.3}),
    Knob(SortedMargins(), loss("sorted_margins"), {"beta": 0.6}),
    Knob(SortedSides(column="rank"), loss("sorted_sides"), {"beta": 0.6}),
    Knob(RowTarget(), value, {"target": 0.5}),
    Knob(OneOfEach(), two, {"temperature": 0.3}),
    Knob(Perplexities(), perplexities, {"every": 2, "rows": 2}),
    Knob(DeficientTasks(), deficient, {"share": 0.9}),
    Knob(
        PessimisticChoices(horizon=6, pessimism=0.2),
        planned,
        {**PLAN, "discount": 0.5, "known": 1, "pessimism": 2.0},
    ),
    Knob(
        RandomisedPlan(horizon=6),
        planned,
        {**PLAN, "reward_noise": 0.1, "value_noise": 5.0, "ask": 4.0, "states": 6},
    ),
)
