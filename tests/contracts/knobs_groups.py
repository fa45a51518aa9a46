"""Knobs of losses over whole groups and of advantages of groups."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.objective.implicit import (
    DiscriminativeScores,
    EquivalentPreference,
    ImplicitClassifier,
    ImplicitRegression,
    JointPairSurrogate,
    RightWrongPreference,
    Shortness,
)
from support import full_step


def loss(part: Any) -> Tensor:
    """Value and gradient of a loss of groups, with the rich batch as one group."""
    case, rows = dataclasses.replace(cases.CASES["joint_pair"], loss=part), cases.rich()
    found, gradient = full_step(case.context(), rows.with_rows({"group": torch.zeros_like(rows.row["group"])}))
    return torch.cat([found[None], gradient.flatten()])


MIXED = -2.0
"""Three of the four rewards lie above it, one below."""

KNOBS = (
    Knob(ImplicitClassifier(threshold=MIXED), loss, {"beta": 0.5, "threshold": 0.5}),
    Knob(ImplicitClassifier(comparison="standardised"), loss, {"epsilon": 0.1}),
    Knob(ImplicitRegression(), loss, {"beta": 0.5}),
    Knob(JointPairSurrogate(0.5), loss, {"clip": 0.1}),
    Knob(RightWrongPreference(MIXED), loss, {"threshold": 0.5, "beta": 0.5}),
    Knob(EquivalentPreference(MIXED), loss, {"threshold": 0.5, "beta": 0.5, "spread": 0.3}),
    Knob(
        DiscriminativeScores(MIXED, Shortness(20)),
        loss,
        {"threshold": 0.5, "bonus": 0.0, "temperature": 0.5, "sharpness": 0.5},
    ),
    Knob(Shortness(), lambda part: part(cases.rich()), {"limit": 20}),
)
