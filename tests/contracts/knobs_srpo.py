"""Knobs of the score of recorded behaviour."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.constraint import score
from references_srpo import LinearNoise
from references_values import Pointed, composed, stepped, transitions


def learned(part: Any) -> Tensor:
    """Value and gradients by the policy."""
    models = {"policy": Pointed(1), "diffusion": LinearNoise(4)}
    loss, gradient = stepped(composed(part, "policy", models), transitions())
    return torch.cat([loss[None], *(g.flatten() for g in gradient.values())])


KNOBS = (Knob(score.ScoreOfBehaviour(), learned, {"weighting": "ratio", "centred": True, "times": (0.3, 0.5)}),)
