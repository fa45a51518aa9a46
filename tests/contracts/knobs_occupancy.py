"""Knobs of charges on occupancies, and of training before a round."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.compose import Term
from policyopt.engines.plain import generate
from policyopt.objective.ratio import Authorship, steps_of_first, steps_of_others
from policyopt.policies.tabular import Table, TableQ
from policyopt.reward import occupancy
from policyopt.update import first, optimizers
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.worlds.tables import chain
from support import context, grids, method, numbers, ragged


def paid(part: Any) -> Tensor:
    """Rewards of a batch whose discriminator is a table."""
    batch = ragged()
    batch = batch.with_rows({"_state": torch.zeros(len(batch), dtype=torch.int64)})
    batch = batch.with_steps({"_state": torch.arange(13).expand(len(batch), -1)})
    models = {**grids(), "discriminator": TableQ(2 * numbers(1, 13, 5, seed=8))}
    return part(context(method(), models), batch).step["reward"]


def learned(part: Any) -> Tensor:
    """The discriminator after it was trained before a round."""
    terms = tuple(
        Term(name, Authorship("critic"), TokenMean(), mask=mask, trains="critic")
        for name, mask in (("ours", steps_of_first), ("theirs", steps_of_others))
    )
    steps = GradientSteps({"critic": optimizers.SGD(0.1)})
    policy, other = Table(numbers(4, 2, seed=1)), Table(numbers(4, 2, seed=2))
    models = {"policy": policy, "reference": other, "critic": TableQ(torch.zeros(1, 4, 2))}
    ctx = context(method(), models, chain(4, 0.1, horizon=6), generate)
    dataclasses.replace(part, terms=terms, update=steps)(ctx)
    found: Any = ctx.models["critic"]
    return found.values.detach().clone()


KNOBS = (
    Knob(occupancy.ChiSquarePenalty(), paid, {"coefficient": 0.2, "bound": 0.01}),
    Knob(occupancy.RootChiSquarePenalty(), paid, {"coefficient": 0.2, "bound": 0.01, "trim": 0.2}),
    Knob(occupancy.LogRatioPenalty(), paid, {"coefficient": 0.2, "bound": 0.01}),
    Knob(occupancy.SequenceChiSquarePenalty(), paid, {"coefficient": 0.2, "bound": 0.01}),
    Knob(first.TrainedFirst(), learned, {"count": 5}),
)
