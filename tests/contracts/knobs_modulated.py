"""Knobs of credit that entropies modulate."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.credit import entropies
from support import context, grids, method, numbers, ragged


def credited(part: Any) -> Tensor:
    batch = ragged().with_steps(
        {"turn": (torch.arange(13) // 3).expand(4, -1), "entropy": numbers(4, 13, seed=9).abs()}
    )
    found = part(context(method(), grids(full=True)), batch)
    return torch.cat([found.step[name].flatten() for name in part.writes])


KNOBS = (
    Knob(
        entropies.EntropyModulated(),
        credited,
        {"sharpness": 2.0, "foresight": 2.0, "bonus": 0.5, "epsilon": 0.5},
    ),
    Knob(entropies.StepEntropies(), credited, {"role": "reference"}),
)
