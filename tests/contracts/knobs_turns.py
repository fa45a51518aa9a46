"""Knobs of turns."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.compose import Term
from policyopt.constraint.contexts import ContextDependence
from policyopt.credit.pairs import SimilarityWeighted
from policyopt.credit.turns import TurnAdvantage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._referees import Items
from policyopt.evaluation.experiments._rubrics import Rubrics
from policyopt.feedback.contexts import MaskedContext
from policyopt.feedback.steps import AgreedSteps
from policyopt.objective.offline import BehaviourConstrained
from policyopt.objective.optimistic import OptimisticSurrogate
from policyopt.policies.tabular import Table
from policyopt.reward.referee import Refereed
from policyopt.reward.rubric import RUBRIC, RubricReward
from policyopt.reward.weighted_tests import WeightedTests
from policyopt.sampling.store import ROWS, store
from policyopt.sampling.verified_pairs import StoredPairs, StoreRows
from policyopt.selection.dropped import MostlyUnsolved
from policyopt.selection.solved import RETIRED
from policyopt.selection.turns import TurnsAsRows
from policyopt.types import Round, Tasks
from policyopt.update.averaging import SequenceSum
from support import Columns, context, full_step, grids, method, numbers, ragged, rewarded, with_row

TURNS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5])


def rows() -> Any:
    batch = ragged()
    return with_row(batch, group=[1, 1, 1, 2]).with_steps({"turn": TURNS.expand(4, -1)})


def credited(part: Any) -> Tensor:
    return part(context(method(), grids()), rows()).step["advantage"]


def tested(part: Any) -> Tensor:
    world = SimpleNamespace(checks=lambda batch: (numbers(4, 13, 5, seed=3) > -1).double())
    found = part(context(method(), grids(), world), rows())
    return torch.stack([found.step["reward"], found.step["reward:turn"]])


def kept(part: Any) -> Tensor:
    return part(context(method(), grids()), rows()).step["train"].double()


def dependent(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["context_dependence"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def blackened(part: Any) -> Tensor:
    batch = ragged().with_context(torch.arange(1, 53).view(4, 13))
    return part(context(method(), grids()), batch).context("masked").double()


def optimistic(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["optimistic"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def offline(part: Any) -> Tensor:
    batch = rows().with_steps({"good": (TURNS % 2 == 0).double().expand(4, -1)})
    made = method(Term("a", part, SequenceSum()), sampling=Columns(), feedback=AgreedSteps())
    found, gradient = full_step(context(made, grids()), batch)
    return torch.cat([found[None], gradient.flatten()])


def judged(part: Any) -> Tensor:
    world = SimpleNamespace(judge_steps=lambda batch: numbers(4, 13, seed=3))
    return part(context(method(), grids(), world), rows()).step["good"]


def weighted(part: Any) -> Tensor:
    batch = rows().with_rows({"similarity": torch.tensor([1.0, 0.5, 0.2, -0.3])})
    return part(context(method(), grids()), batch).step["advantage"]


def stored(part: Any) -> Tensor:
    ctx = context(method(), grids())
    part(ctx, Round(rows(), rows(), rows(), {}))
    return torch.tensor([float(len(held)) for held in ctx[ROWS].values()])


def paired(part: Any) -> Tensor:
    batch = ragged((3, 2, 3, 2))
    world = SimpleNamespace(checks=lambda held: torch.ones(len(held), 1))
    ctx = context(method(), grids(), world)
    store(ctx, with_row(rewarded(batch, [1.0, 0.6, 0.2, 0.9]), task=[0, 0, 0, 0]), 9)
    return part(ctx, lambda: Tasks(torch.zeros(1, dtype=torch.int64)), lambda held: held).step["reward"].sum(1)


def retired(part: Any) -> Tensor:
    ctx = context(method(), grids())
    batch = with_row(rewarded(ragged((1,) * 40), torch.arange(40) % 2 * 0.01 + 1.0), task=range(40), group=range(40))
    part.after(ctx, Round(batch, batch, batch, {}))
    return torch.tensor([float(len(ctx[RETIRED]))])


def refereed(part: Any) -> Tensor:
    items = Items(torch.linspace(0, 1, 8), torch.tensor([[0, 7]]), 2)
    policy = Table(numbers(10, 8, seed=1))
    ctx = context(method(), {"policy": policy}, items, generate)
    tasks = Tasks(torch.tensor([1, 1, 2, 2, 2]), {"group": torch.tensor([0, 0, 1, 1, 1])})
    batch = generate(policy, items, items.start(tasks), torch.arange(5), 1.0, 0)
    return part(ctx, batch).step["reward"]


def rubrics(part: Any) -> Tensor:
    """How long the rubric is after four rounds, and how often it was rewritten."""
    target = torch.tensor([[1, 2, 3, 4, 1, 2]])
    world = Rubrics(1, 5, 6, lambda strings, task: torch.zeros(len(strings)), end=0, target=target)
    ctx = context(method(), {"policy": Table(numbers(6, 5, seed=2))}, world, generate)
    for number in range(4):
        ctx.run.step = number
        start = world.start(Tasks(torch.zeros(9, dtype=torch.int64)))
        batch = generate(ctx.models["policy"], world, start, torch.arange(9) + 100 * number, 1.0, 0)
        part.after(ctx, Round(batch, batch, batch, {}))
    return torch.tensor([float(len(part.present(ctx))), float(ctx[RUBRIC]["version"])])


KNOBS = (
    Knob(RubricReward(2, 1), rubrics, {"every": 1, "samples": 9}),
    Knob(Refereed(), refereed, {"calls": 3, "temperature": 0.1}),
    Knob(StoreRows(9), stored, {"capacity": 1}),
    Knob(StoredPairs(), paired, {"right": 0.1}),
    Knob(MostlyUnsolved(), retired, {"spread": 0.0, "most": 1.005, "drop": 0.3}),
    Knob(OptimisticSurrogate(), optimistic, {"clip_high": 0.05}),
    Knob(BehaviourConstrained(), offline, {"tau": 0.5, "good": -0.5}),
    Knob(AgreedSteps(), judged, {"right": 0.1}),
    Knob(SimilarityWeighted(), weighted, {"power": 1.0}),
    Knob(ContextDependence("teacher"), dependent, {"bound": 0.3, "most": 0.1, "share": 0.5}),
    Knob(MaskedContext(patch=3), blackened, {"share": 0.9, "patch": 2, "filler": 7}),
    Knob(
        TurnAdvantage(scaled=True),
        credited,
        {"column": None, "gamma": 0.9, "ddof": 0, "epsilon": 0.1},
    ),
    Knob(WeightedTests(), tested, {"slope": 1.0, "width": None, "delta": 0.5, "gamma": 0.5}),
    Knob(TurnsAsRows(), kept, {"multiple": 4}),
)
