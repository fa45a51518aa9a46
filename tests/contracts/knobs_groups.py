"""Knobs of losses over whole groups and of advantages of groups."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.compose import Role, Term
from policyopt.constraint.hinge import SquaredHinge
from policyopt.credit.beta import BetaNormalised
from policyopt.credit.given import OfOwnRows, OnOwnScale, WhitenedAdvantage
from policyopt.credit.risk import RiskAdvantage
from policyopt.engines.plain import generate
from policyopt.objective.anchored import AdvantageAlignment
from policyopt.objective.balanced_clip import BalancedClip
from policyopt.objective.implicit import (
    DiscriminativeScores,
    EquivalentPreference,
    ImplicitClassifier,
    ImplicitRegression,
    JointPairSurrogate,
    RightWrongPreference,
    Shortness,
)
from policyopt.objective.implicit_negative import ImplicitNegative, SequenceImplicitNegative
from policyopt.objective.one_step import OneStepRollout
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.reward.shaped import AsymmetricShaping, CappedGiven
from policyopt.sampling.beside import GroupAndRecorded
from policyopt.sampling.heated import ENTROPY, EntropyControlled
from policyopt.seen import SeenBatch
from policyopt.selection.routed import RoutedRows
from policyopt.train import _draw, _judge
from policyopt.types import Round
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import SequenceWorld
from references_groups import Chooser
from support import context, full_step, grids, method, numbers, ragged, rewarded, with_row


def loss(part: Any) -> Tensor:
    """Value and gradient of a loss of groups, with the rich batch as one group."""
    case, rows = dataclasses.replace(cases.CASES["joint_pair"], loss=part), cases.rich()
    found, gradient = full_step(case.context(), rows.with_rows({"group": torch.zeros_like(rows.row["group"])}))
    return torch.cat([found[None], gradient.flatten()])


def negative(part: Any) -> Tensor:
    key = "sequence_negative" if isinstance(part, SequenceImplicitNegative) else "implicit_negative"
    case, rows = dataclasses.replace(cases.CASES[key], loss=part), cases.rich()
    found, gradient = full_step(case.context(), rows.with_rows({"group": torch.zeros_like(rows.row["group"])}))
    return torch.cat([found[None], gradient.flatten()])


def surrogate(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["balanced_clip"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def searched(part: Any) -> Tensor:
    """With both ways of counting and shares at which one of the searches stops on its way."""
    ways = [{}, {"share": 0.0}, {"share": 1.0}, *({"counted": "gradient", "share": share} for share in (0.7, 0.78))]
    return torch.cat([surrogate(dataclasses.replace(part, **way)) for way in ways])


def rolled(part: Any) -> Tensor:
    roles = {"policy": Role(grad=True, full=True)}
    made = method(Term("one", part, TokenMean()), roles=roles)
    found, gradient = full_step(context(made, {"policy": Chooser(numbers(4, 13, 5))}), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def hinged(part: Any) -> Tensor:
    return part(SeenBatch(context(method(), grids()), cases.rich()), cases.rich())


def advantages(part: Any) -> Tensor:
    """Three groups of two rows and one of a data set."""
    batch = with_row(ragged((1, 2, 3, 2, 1, 4, 2, 3, 1)), group=[1, 2, 3] * 3, source=[0] * 6 + [3] * 3)
    rewards = [0.9, 0.1, 0.3, 0.2, 0.4, 0.7, 1.0, 0.9, 0.5]
    return part(context(method(), grids()), rewarded(batch, rewards)).step["advantage"]


def risk(part: Any) -> Tensor:
    """Advantages of three tasks of three rows, and of the same after a round that moved the quantiles."""
    ctx = context(method(), grids())
    batch = with_row(ragged((1, 2, 3, 2, 1, 4, 2, 3, 1)), group=[1, 2, 3] * 3)
    rows = part(ctx, rewarded(batch, [0.9, 0.1, 0.3, 0.2, 0.4, 0.7, 1.0, 0.9, 0.5]))
    for _ in range(2):
        part.after(ctx, Round(rows, rows, rows, {}))
    now = part(ctx, rewarded(batch, [0.1, 0.1, 0.3, 0.8, 0.4, 0.7, 0.0, 0.9, 0.5]))
    return torch.cat([rows.step["advantage"].flatten(), now.step["advantage"].flatten()])


def sampled(part: Any) -> Tensor:
    """Rows, the sampler's log-probabilities and which copies of its recorded rows a task is asked for."""
    world = SequenceWorld(12, 12, 1, lambda strings, task: (strings[:, 0] == task).double(), recordings=TWELVE)
    ctx = context(method(sampling=part), {"policy": Table(numbers(12, 12))}, world, generate)
    batch = part(ctx, _draw(ctx), _judge(ctx))
    copies = dataclasses.replace(part, recorded=3).copies(ctx, world.tasks(torch.arange(12)))
    return torch.cat([torch.tensor([float(len(batch))]), batch.step["behaviour"].flatten(), copies])


def advantages_again(part: Any) -> Tensor:
    return part(context(method(), grids()), cases.rich()).step["advantage"]


def heated(part: Any) -> Tensor:
    """Rows after a round of little entropy, and after one of much."""
    world = SequenceWorld(12, 12, 1, lambda strings, task: (strings[:, 0] % 3 == task % 3).double())
    found = []
    for entropy in (0.1, 9.0):
        ctx = context(method(sampling=part, reward=Verified()), {"policy": Table(numbers(12, 12))}, world, generate)
        ctx[ENTROPY] = entropy
        batch = part(ctx, _draw(ctx), _judge(ctx))
        found += [torch.tensor([float(len(batch))]), batch.step["behaviour"].flatten(), batch.row["source"]]
    return torch.cat(found)


def shaped(part: Any) -> Tensor:
    return part(None, rewarded(ragged((1, 2, 3, 2)), [0.1, 0.6, 0.9, 1.0])).step["reward"]


def capped(part: Any) -> Tensor:
    batch = with_row(ragged((1, 2, 3, 2)), source=[0, 3, 3, 0])
    return part(None, rewarded(batch, [0.1, 0.6, 0.9, 1.0])).step["reward"]


def routed(part: Any) -> Tensor:
    return part(None, rewarded(with_row(ragged((1, 2, 3, 2)), group=[1, 1, 2, 2]), [0.1, 0.6, 0.9, 1.0])).row["_row"]


TWELVE = torch.arange(12)[:, None]
MIXED = -2.0
"""Three of the four rewards lie above it, one below."""

KNOBS = (
    Knob(
        ImplicitClassifier(comparison="standardised", threshold=MIXED, epsilon=0.1),
        loss,
        {"beta": 0.5, "threshold": 0.5, "epsilon": 0.3},
    ),
    Knob(ImplicitRegression(), loss, {"beta": 0.5}),
    Knob(JointPairSurrogate(0.5), loss, {"clip": 0.1}),
    Knob(RightWrongPreference(MIXED), loss, {"threshold": 0.5, "beta": 0.5}),
    Knob(EquivalentPreference(MIXED), loss, {"threshold": 0.5, "beta": 0.5, "spread": 0.3}),
    Knob(
        DiscriminativeScores(MIXED, Shortness(20)),
        loss,
        {"threshold": 0.5, "bonus": 0.0, "temperature": 0.5, "sharpness": 0.5},
    ),
    Knob(
        ImplicitNegative(threshold=MIXED),
        negative,
        {"negative": 0.5, "floor_right": 1.1, "floor_wrong": 0.2, "least": 0.4, "threshold": 0.5},
    ),
    Knob(
        SequenceImplicitNegative(threshold=MIXED),
        negative,
        {"negative": 0.5, "floor_right": 1.1, "floor_wrong": 5.0, "least": 0.4, "threshold": 0.5},
    ),
    Knob(
        BalancedClip(),
        searched,
        {
            "share": 0.9,
            "low": 0.8,
            "low_end": 0.7,
            "low_by": 0.25,
            "high": 1.1,
            "high_end": 1.5,
            "high_by": 0.7,
            "dual_clip": 1.2,
        },
    ),
    Knob(AdvantageAlignment(), surrogate, {"temperature": 0.5}),
    Knob(OneStepRollout(3), rolled, {"count": 4, "temperature": 0.5, "wrong": -0.5}),
    Knob(SquaredHinge(limit=0.0), hinged, {"scale": 10.0, "limit": 0.01}),
    Knob(OnOwnScale(), advantages, {"epsilon": 0.1, "ddof": 1, "bound": 0.5}),
    Knob(BetaNormalised(), advantages, {"alpha": 1.5, "beta": 1.5, "low": -1.0, "high": 2.0}),
    Knob(
        RiskAdvantage(size=2),
        risk,
        {"size": 3, "alpha": 0.4, "beta": 0.6, "tail": 0.5, "rate": 0.5, "epsilon": 0.1},
    ),
    Knob(GroupAndRecorded(), sampled, {"size": 3, "temperature": 0.5, "recorded": 2, "teachers": 1}),
    Knob(
        EntropyControlled(3, 4, 6, target=0.5),
        heated,
        {"size": 4, "extra": 5, "most": 1, "target": 0.05, "hot": 9.0, "cold": 1.0, "better": 1.0},
    ),
    Knob(OfOwnRows(), advantages, {"given": 1.0, "best": 1.2}),
    Knob(CappedGiven(), capped, {"cap": 0.3}),
    Knob(
        WhitenedAdvantage(),
        lambda part: part(context(method(), grids()), cases.rich()).step["advantage"],
        {"epsilon": 1.0},
    ),
    Knob(AsymmetricShaping(), shaped, {"threshold": 0.5, "alpha": 2.0, "slope": 0.1}),
    Knob(RoutedRows(), routed, {"threshold": 0.95}),
    Knob(Shortness(), lambda part: part(cases.rich()), {"limit": 20}),
)
