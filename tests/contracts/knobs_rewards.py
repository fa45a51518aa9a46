"""Knobs of graded rewards, judged steps, answers' certainty and pruning."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.constraint.entropy_covariance import CovarianceEntropy
from policyopt.credit.uncertainty import SemanticEntropyScaled
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.named_grades import Forced
from policyopt.evaluation.experiments.swarm import Node
from policyopt.objective.informative import InformativeSteps
from policyopt.policies.tabular import Table
from policyopt.reward.checks import Checked
from policyopt.reward.contrast import ContrastBonus
from policyopt.reward.dithering import Dithered
from policyopt.reward.heads import FuzzyError
from policyopt.reward.loops import LengthBonus, LoopPenalty
from policyopt.reward.parts import Verified
from policyopt.reward.steps import LeadingSteps, ShapedChain, WhereNoneRight
from policyopt.sampling.contrast import Contrasted
from policyopt.sampling.exchange import Exchanged
from policyopt.selection.pruning import LargestAdvantages, LargestSteps, MostVaried
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.types import Finish, Scores
from policyopt.worlds.sequences import SequenceWorld
from support import FULL_ROLES, Grid, context, full_step, grids, method, numbers, per_row, ragged, rewarded, with_row

JUDGED = torch.tensor([0.9, 0.6, 0.3, 0.95, 0.7, 0.99, 0.8, 0.85, 0.9, 0.4, 0.97, 0.92, 0.88], dtype=torch.float64)


class Judge:
    """Judges steps by their place; checks and answers by the row."""

    def judge_steps(self, batch: Any) -> Tensor:
        return JUDGED[: batch.steps].expand(len(batch), -1) ** (1 + 0.1 * batch.row["_row"][:, None])

    def checks(self, batch: Any) -> Tensor:
        return torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.5, 1.0]])[batch.row["_row"]]

    def answer_keys(self, batch: Any) -> Tensor:
        return torch.tensor([3, 1, 4, 1])[batch.row["_row"]]


class Looping(Grid):
    """A policy whose rows say the same thing again and again."""

    def taken(self, batch: Any) -> Tensor:
        return torch.tensor([5, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]).expand(len(batch), -1)[:, : batch.steps]


def at_round(step: int) -> Any:
    ctx = context(method(), {**grids(), "policy": Looping(logp=numbers(8, 104))}, Judge())
    ctx.run.step = step
    return ctx


def rewards(part: Any) -> Tensor:
    """Rewards of long rows in the fourth of ten rounds."""
    batch = rewarded(ragged((2, 5, 9, 13), tools=False), [0.0, 0.1, 0.2, 0.3])
    batch = with_row(batch, finish=[1, int(Finish.TRUNCATED)] * 2).with_steps({"reward:error": batch.step["reward"]})
    return part(at_round(3), batch).step["reward"]


def of_chains(part: Any) -> Tensor:
    """Both sides of every bound: short and long chains of different quality."""
    mean = torch.tensor([0.1, 0.5, 0.95, 0.1, 0.5, 0.95, 0.86, 0.87], dtype=torch.float64)
    count = torch.tensor([2.0, 3.0, 4.0, 9.0, 9.0, 9.0, 30.0, 4.0], dtype=torch.float64)
    factors: Any = ("piecewise", "rising", "peaked")
    weights = [dataclasses.replace(part, factor=factor).weight(mean, count) for factor in factors]
    return torch.cat([*weights, rewards(part).flatten()])


def credited(part: Any) -> Tensor:
    return part(at_round(0), ragged()).step["advantage"]


def kept(part: Any) -> Tensor:
    batch = per_row(ragged((2, 3, 2, 3, 2, 3, 2, 3)), [0.9, 0.1, -0.6, 2.0, 0.3, -0.7, 0.2, 0.4])
    return part(at_round(3), batch).row["_row"].double()


def trained(part: Any) -> Tensor:
    ctx = context(method(roles=FULL_ROLES), grids(full=True))
    ctx.run.step = 3
    return part(ctx, ragged()).step["train"].double()


def contrasted(part: Any) -> Tensor:
    """Rewards of a group in which the behaviour helps by a fifth."""
    batch = rewarded(ragged((1, 2, 1, 2, 1, 2)), [0.0] * 6)
    batch = batch.with_rows({"group": torch.zeros(6, dtype=torch.int64), "told": torch.tensor([1, 0, 1, 0, -1, -1])})
    heads = {"accuracy": [0.5, 0.3, 0.5, 0.3, 0.0, 0.0], "behaviour": [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]}
    columns = {f"reward:{name}": rewarded(batch, worth).step["reward"] for name, worth in heads.items()}
    return part(at_round(0), batch.with_steps(columns)).step["reward"]


def told(part: Any) -> Tensor:
    """What the rows of two tasks are told, and the sampler's log-probabilities."""
    world = SequenceWorld(2, 3, 2, lambda strings, task: strings.sum(1).double())
    ctx = context(method(sampling=part), {"policy": Table(numbers(4, 3))}, Forced(world), generate)
    ctx.stage = dataclasses.replace(ctx.stage, reward=Verified(), selection=Selection(2))
    rows = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([rows.row["told"].double(), rows.step["behaviour"].flatten()])


def exchanged(part: Any) -> Tensor:
    """Strings of a round in which another node has published two groups."""
    world = SequenceWorld(2, 3, 2, lambda strings, task: strings.sum(1).double())
    told = (torch.tensor([0, 0, 1, 1]), torch.tensor([[0, 0], [1, 0], [0, 2], [2, 2]]), torch.tensor([1, 1, 2, 2]))
    node = Node(world, 0, {1: told})
    ctx = context(method(sampling=part), {"policy": Table(numbers(4, 3))}, node, generate)
    ctx.stage = dataclasses.replace(ctx.stage, reward=Verified(), selection=Selection(2))
    rows = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([rows.step["behaviour"].nan_to_num().flatten(), world.strings(rows).double().flatten()])


def loss(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["covariance_entropy"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def counted(part: Any) -> Tensor:
    seen = {"policy": Scores(numbers(4, 13, seed=2), numbers(4, 13, seed=3))}
    return part(seen, ragged()).double()


KNOBS = (
    Knob(Dithered(), rewards, {"scale": 0.1, "final": 0.5}),
    Knob(Checked(), rewards, {"weight": 0.3}),
    Knob(FuzzyError(), rewards, {"limit": 0.25, "most": 1.0}),
    Knob(LoopPenalty(), rewards, {"weight": 0.2}),
    Knob(LengthBonus(limit=100), rewards, {"weight": 0.2, "limit": 50}),
    Knob(ContrastBonus(), contrasted, {"weight": 0.3, "margin": 0.25}),
    Knob(Contrasted(size=6), told, {"size": 5, "told": 0.5, "temperature": 0.5}),
    Knob(Exchanged(size=3, external=1), exchanged, {"size": 2, "external": 2, "temperature": 0.5}),
    Knob(LeadingSteps(), rewards, {"right": 0.65}),
    Knob(WhereNoneRight(), rewards, {"scale": 0.5, "right": 0.15}),
    Knob(
        ShapedChain(),
        of_chains,
        {
            "pivot": 3.0,
            "short": 0.3,
            "long": 0.2,
            "gate": 1.0,
            "high": 0.865,
            "low": 0.05,
            "still": 0.5,
            "most": 6,
            "width": 6.0,
            "exponent": 1.0,
        },
    ),
    Knob(SemanticEntropyScaled(), credited, {"alpha": 0.5}),
    Knob(LargestAdvantages(), kept, {"keep": 0.25}),
    Knob(MostVaried(), kept, {"keep": 0.9, "final": 1.0}),
    Knob(LargestSteps(), trained, {"keep": 0.5, "final": 0.9}),
    Knob(CovarianceEntropy(), loss, {"scale": 5.0, "most": 0.5}),
    Knob(InformativeSteps(), counted, {"share": 0.3, "entropy": 0.0}),
)
