"""Knobs of credit from critics."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.credit import critics
from policyopt.types import Finish
from support import context, grids, method, ragged, with_row


def credited(part: Any) -> Tensor:
    """What it writes, for turns of three steps and a row that is cut."""
    batch = with_row(ragged(), finish=[1, 1, 1, int(Finish.TRUNCATED)])
    batch = batch.with_steps({"turn": (torch.arange(13) // 3).expand(4, -1)})
    found = part(context(method(), grids()), batch)
    return torch.cat([found.step[name].flatten() for name in part.writes])


KNOBS = (
    Knob(critics.DecomposedAdvantage(), credited, {"gamma": 0.5, "lam": 0.3, "inside": 0.5}),
    Knob(critics.BoundedAdvantages(), credited, {"bound": 0.1}),
)
