"""Knobs of losses of pairs, lists and single good and bad rows."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.credit.success import PrefixSuccess
from policyopt.engines.plain import generate
from policyopt.objective.anchored import RowAlignment
from policyopt.objective.listwise import LabelledList, PairsOfDistances, PairsOfStated, RankedList
from policyopt.objective.pairwise import PairPreference, RowPreference
from policyopt.policies.tabular import Table
from policyopt.types import Tasks
from policyopt.worlds.sequences import SequenceWorld
from ranked_rows import Actor, every, lists, step
from support import context, full_step, grids, method, numbers


def pairs(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["pair_hinge"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def of_lists(part: Any) -> Tensor:
    found, gradient = step(part)
    return torch.cat([found[None], gradient.flatten()])


def rows(part: Any) -> Tensor:
    batch = lists()
    found, gradient = step(part, batch, mask=every)
    return torch.cat([found[None], gradient.flatten()])


def distances(part: Any) -> Tensor:
    batch = lists().with_steps({"_action": numbers(8, 13, 2, seed=6)})
    found, gradient = step(part, batch, {**grids(), "policy": Actor(values=numbers(8, 13, 2, seed=5))})
    return torch.cat([found[None], gradient.flatten()])


def alignment(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["row_alignment"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def success(part: Any) -> Tensor:
    """Labels of strings whose grade is a share of right symbols."""
    world = SequenceWorld(4, 3, 3, lambda strings, task: (strings == 0).double().mean(1))
    ctx = context(method(), {"policy": Table(numbers(12, 3, seed=2))}, world, generate)
    return part(ctx, ctx.extend(world.start(Tasks(torch.arange(4))))).step["label"]


STATED = {"beta": 0.3, "anchor": None, "discount": 0.8}

KNOBS = (
    Knob(PairPreference(), pairs, {**STATED, "wrong": 0.1, "rejected": 0.5, "target": 0.3}),
    Knob(RowPreference(), rows, {**STATED, "point": 0.3, "good": 0.7, "bad": 0.7}),
    Knob(PairsOfStated(), of_lists, {**STATED, "rejected": 0.5}),
    Knob(PairsOfDistances(), distances, {"rejected": 0.5, "temperature": 0.3, "span": 1.0}),
    Knob(RankedList(), of_lists, STATED),
    Knob(LabelledList(), of_lists, STATED),
    Knob(RowAlignment(), alignment, {"temperature": 0.5}),
    Knob(PrefixSuccess(right=0.6), success, {"count": 5, "right": 0.3, "temperature": 0.3}),
)
