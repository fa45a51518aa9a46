"""Cases of losses over whole groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import loops_groups as by_hand
from cases import Case, by_step
from loops import clipped
from policyopt.constraint.hinge import DriftFromOld
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


def by_group(formula: Callable[..., Any], anchor: str | None, *, limit: int = 0) -> Callable:
    """The reference of a loss of groups: x is the sum of log pi - log anchor of a row's trained steps, or without an
    anchor their mean log pi; the extra number is 1 - own steps / limit."""

    def reference(batch, tables):
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        steps = [[t for t in range(batch.steps) if batch.trained[b, t]] for b in range(len(batch))]
        for group in set(batch.row["group"].tolist()):
            rows = [b for b in range(len(batch)) if int(batch.row["group"][b]) == group and steps[b]]
            x, rewards, extra = [], [], []
            for b in rows:
                whole = sum(float(tables["policy"][b, t]) for t in steps[b])
                held = sum(float(tables[anchor][b, t]) for t in steps[b]) if anchor else 0.0
                x.append(whole - held if anchor else whole / len(steps[b]))
                rewards.append(sum(float(batch.step["reward"][b, t]) for t in range(batch.steps) if batch.valid[b, t]))
                extra.append(1 - float(batch.own[b].sum()) / limit if limit else 0.0)
            values, slopes = formula(x, rewards, extra)
            for b, one, by_row in zip(rows, values, slopes, strict=True):
                value[b] = one
                slope[b, steps[b]] = by_row if anchor else by_row / len(steps[b])
        return value, slope

    return reference


def by_negative(sequence: bool, **options: Any) -> Callable:
    """The reference of a loss of ratios that knows the share of right rows in a group."""

    def reference(batch, tables):
        shape = (len(batch),) if sequence else (len(batch), batch.steps)
        value, slope = torch.zeros(shape), torch.zeros(len(batch), batch.steps)
        steps = [[t for t in range(batch.steps) if batch.trained[b, t]] for b in range(len(batch))]
        for group in set(batch.row["group"].tolist()):
            rows = [b for b in range(len(batch)) if int(batch.row["group"][b]) == group and steps[b]]
            change = [[float(tables["policy"][b, t] - tables["old"][b, t]) for t in steps[b]] for b in rows]
            rewards = [float(batch.step["reward"][b][batch.valid[b]].sum()) for b in rows]
            found = by_hand.negative([[sum(c)] for c in change] if sequence else change, rewards, **options)
            for b, pairs in zip(rows, found, strict=True):
                if sequence:
                    value[b], slope[b, steps[b]] = pairs[0]
                    continue
                for t, (one, moves) in zip(steps[b], pairs, strict=True):
                    value[b, t], slope[b, t] = one, moves
        return value, slope

    return reference


def balanced(dual: float | None, **options: Any) -> Callable:
    """The clipped surrogate with the bounds that are searched over all trained steps."""

    def reference(batch, tables):
        places = batch.trained.nonzero().tolist()
        ratios = [math.exp(float(tables["policy"][b, t] - tables["old"][b, t])) for b, t in places]
        advantages = [float(batch.step["advantage"][b, t]) for b, t in places]
        low, high = by_hand.balanced_bounds(ratios, advantages, **options)
        formula = by_step(lambda l, o, a: clipped(l, o, a, 1 - low, high - 1, dual), "policy old", "advantage")  # noqa: E741
        return formula(batch, tables)

    return reference


LEVEL = -3.0
"""Rewards of one group lie on both sides of it, in the rich batch and on rows of every kind of policy."""


def group(loss: Any, formula: Callable[..., Any], anchor: str | None, limit: int = 0, **options: Any) -> Case:
    return Case(loss, by_group(partial(formula, **options), anchor, limit=limit), unit="group")


CASES = {
    "implicit_classifier": group(
        ImplicitClassifier(0.7, threshold=LEVEL), by_hand.classifier, "old", beta=0.7, threshold=LEVEL
    ),
    "standardised_classifier": group(
        ImplicitClassifier(0.7, "standardised", balanced=False, threshold=LEVEL, epsilon=0.1),
        by_hand.classifier,
        "old",
        beta=0.7,
        comparison="standardised",
        balanced=False,
        threshold=LEVEL,
        epsilon=0.1,
    ),
    "plain_classifier": group(
        ImplicitClassifier(0.7, "none", mean_logp=True, threshold=LEVEL),
        by_hand.classifier,
        None,
        beta=0.7,
        comparison="none",
        threshold=LEVEL,
    ),
    "implicit_regression": group(ImplicitRegression(0.3), by_hand.regression, "old", beta=0.3),
    "pair_regression": group(
        ImplicitRegression(0.3, "reference", pairs=True), by_hand.regression, "reference", beta=0.3, pairs=True
    ),
    "joint_pair": group(JointPairSurrogate(0.5), by_hand.joint, "old", clip=0.5),
    "right_wrong": group(
        RightWrongPreference(LEVEL, beta=0.8), by_hand.preference, "reference", beta=0.8, threshold=LEVEL
    ),
    "equivalent": group(
        EquivalentPreference(LEVEL, 0.6, 0.3), by_hand.equivalent, "reference", beta=0.6, spread=0.3, threshold=LEVEL
    ),
    "discriminative": group(
        DiscriminativeScores(LEVEL, Shortness(20), 0.7, 0.4),
        by_hand.discriminative,
        None,
        20,
        temperature=0.7,
        sharpness=0.4,
        threshold=LEVEL,
    ),
    "implicit_negative": Case(
        ImplicitNegative("none", 0.7, 0.9, 0.95, least=0.1, threshold=LEVEL),
        by_negative(
            False, weighting="none", negative=0.7, floor_right=0.9, floor_wrong=0.95, least=0.1, threshold=LEVEL
        ),
    ),
    "sequence_negative": Case(
        SequenceImplicitNegative("root", floor_wrong=0.5, threshold=LEVEL),
        by_negative(True, weighting="root", floor_wrong=0.5, threshold=LEVEL),
        unit="row",
    ),
    "balanced_clip": Case(
        BalancedClip(0.9, high_end=1.5, low_by=0.07),
        balanced(None, share=0.9, high_end=1.5, low_by=0.07),
    ),
    "balanced_gradients": Case(
        BalancedClip(0.7, dual_clip=1.4, counted="gradient"), balanced(1.4, share=0.7, counted="gradient")
    ),
    "advantage_alignment": Case(
        AdvantageAlignment(0.7),
        by_step(
            lambda l, f, a: ((l - f - a / 0.7) ** 2, 2 * (l - f - a / 0.7)),  # noqa: E741
            "policy reference",
            "advantage",
        ),
    ),
    "drift": Case(DriftFromOld(), by_step(lambda l, o: (o - l, -1.0), "policy old")),  # noqa: E741
    "k3_drift": Case(
        DriftFromOld("k3"),
        by_step(lambda l, o: (o - l + math.exp(l - o) - 1, math.exp(l - o) - 1), "policy old"),  # noqa: E741
    ),
}
