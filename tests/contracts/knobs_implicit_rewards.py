"""Knobs of process rewards, of put-together teachers, of peers that choose and of rows made wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from asked import asking, sampled
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.annotators import Annotated, Aspects, Criticised, Dialogues, Solver
from policyopt.evaluation.experiments.reward_models import _Answers
from policyopt.feedback.annotator import AnnotatedPairs
from policyopt.feedback.peers import PeerReview
from policyopt.policies.tabular import Table
from policyopt.reward.follow_ups import FollowUpLikelihood
from policyopt.reward.implicit_rewards import ImplicitProcess
from policyopt.reward.parts import Verified
from policyopt.reward.refinement import RefinementReward
from policyopt.sampling.corrupted import GroupAndCorrupted
from policyopt.sampling.samplers import Group
from policyopt.selection.agreement import RightBothWays
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.types import Tasks
from references_reward_models import said, training
from support import context, full_step, grids, method, numbers, ragged, with_row


def process(part: Any) -> Tensor:
    rows = ragged().with_steps({"turn": (torch.arange(13) // 4).expand(4, -1)})
    return part(context(method(), grids()), rows).step["reward"]


def teacher(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["extrapolated_teacher"], loss=part)
    value, gradient = full_step(case.context(), cases.rich())
    return torch.cat([value[None], gradient.flatten()])


class _Pairs:
    size = 2


def reviewed(part: Any) -> Tensor:
    rows = with_row(ragged((2, 2, 2, 2)), pair=[0, 1, 0, 1], rank=[0, 0, 1, 1])
    models = {**grids(), "first": said(0.5, 1.0, 0.0, 0.0), "second": said(2.0, 1.0, 0.0, 0.0)}
    ctx = context(training(rows, models=("first", "second")), models, _Pairs())
    ctx.run.drawn = 8
    found = part(ctx, rows).row
    return torch.stack([found["taught:first"], found["taught:second"]])


def answered(part: Any) -> Tensor:
    world = _Answers(4, 5, 1, lambda s, task: 0.7 * (s[:, 0] == task).double())
    made = method(sampling=part, reward=Verified(), selection=Selection(4))
    ctx = context(made, {"policy": Table(torch.eye(4, 5))}, world, generate)
    found = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([found.row["rank"].double(), found.step["behaviour"].flatten()])


def refined(part: Any) -> Tensor:
    wrong = torch.tensor([2, -1, 0, -1])
    world = Criticised(4, 3, 2, lambda s, t: 0.7 * (s[:, 0] == (wrong[t] < 0).long()).double(), wrong=wrong)
    rows = world.complete(Tasks(torch.tensor([0, 0, 1, 2])), torch.tensor([[0, 2], [0, 1], [0, 0], [0, 0]]))
    rows = rows.with_steps({"reward": torch.stack([torch.zeros(4), world.grade(rows)], 1)})
    ctx = context(method(), {**grids(), "solver": Solver(0.6, 0.4)}, world, generate)
    return part(ctx, rows).step["reward"]


def followed(part: Any) -> Tensor:
    world = Dialogues(3, 4, 1, lambda s, task: torch.zeros(len(task)))
    rows = world.complete(Tasks(torch.tensor([0, 1, 2])), torch.tensor([[0], [3], [1]]))
    user = Table(numbers(world.states, 4, seed=1))
    return part(context(method(), {**grids(), "user": user}, world), rows).step["reward"]


def polled(part: Any) -> Tensor:
    quality = torch.tensor([0.0, 0.5, 1.0])
    world = Annotated(4, 3, 1, lambda s, t: torch.zeros(len(t)), quality=quality)
    ctx = asking(Group(2), world, Table(numbers(4, 3)), feedback=part)
    ctx.run.models["annotator"] = Reader(numbers(4, 3, seed=2))
    rows = sampled(ctx)
    heat = torch.tensor([float(Reader.heat)])
    return torch.cat([rows.row["rank"].double(), rows.row["strength"].double(), heat])


class Reader(Table):
    """Remembers at which temperature its answers were asked for."""

    heat = 0.0

    def next(self, batch: Any) -> Any:
        Reader.heat = float(batch.row["temperature"][0])
        return super().next(batch)


def agreed(part: Any) -> Tensor:
    evidence = torch.tensor([[1, 0], [0, 1]]).bool()
    world = Aspects(2, 2, 2, lambda s, t: torch.ones(len(t)), evidence=evidence)
    rows = world.complete(Tasks(torch.arange(2)), torch.zeros(2, 2, dtype=torch.int64))
    rows = rows.with_steps({"reward": torch.tensor([[0.0, 0.7], [0.0, 0.7]])})
    return torch.tensor(float(len(part(context(method(), grids(), world), rows))))


KNOBS = (
    Knob(RefinementReward(), refined, {"weight": 0.5, "count": 7, "temperature": 0.0, "right": 0.9}),
    Knob(FollowUpLikelihood(), followed, {"weight": 0.5}),
    Knob(AnnotatedPairs(), polled, {"votes": 3, "scale": 0.5, "temperature": 0.5}),
    Knob(RightBothWays(), agreed, {"right": 0.9}),
    Knob(ImplicitProcess(model="teacher", against="old"), process, {"beta": 0.5}),
    Knob(cases.CASES["extrapolated_teacher"].loss, teacher, {"beta": 0.2, "scale": 3.0}),
    Knob(PeerReview(noise=0.8, ramp=4), reviewed, {"noise": 0.2, "ramp": 40}),
    Knob(GroupAndCorrupted(), answered, {"size": 3, "temperature": 0.5, "right": 0.9}),
)
