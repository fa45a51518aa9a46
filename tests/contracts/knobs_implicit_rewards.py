"""Knobs of process rewards, of put-together teachers, of peers that choose and of rows made wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.reward_models import _Answers
from policyopt.feedback.peers import PeerReview
from policyopt.objective.implicit_rewards import ExtrapolatedTeacher
from policyopt.policies.tabular import Table
from policyopt.reward.implicit_rewards import ImplicitProcess
from policyopt.reward.parts import Verified
from policyopt.sampling.corrupted import GroupAndCorrupted
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from references_reward_models import said, training
from support import context, full_step, grids, method, ragged, with_row


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


KNOBS = (
    Knob(ImplicitProcess(model="teacher", against="old"), process, {"beta": 0.5}),
    Knob(cases.CASES["extrapolated_teacher"].loss, teacher, {"beta": 0.2, "scale": 3.0}),
    Knob(PeerReview(noise=0.6, ramp=4), reviewed, {"noise": 0.2, "ramp": 40}),
    Knob(GroupAndCorrupted(), answered, {"size": 3, "temperature": 0.5, "right": 0.9}),
)
assert isinstance(KNOBS[1].part, ExtrapolatedTeacher)
