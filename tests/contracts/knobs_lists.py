"""Knobs of parts that make pairs and lists."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.feedback.lists import AcceptedPairs
from support import context, grids, method, numbers, ragged, rewarded, with_row


def accepted(part: Any) -> Tensor:
    batch = rewarded(with_row(ragged((2,) * 8), group=[0, 1] * 4), numbers(8, seed=1))
    done = part(context(method(), grids()), batch)
    return torch.cat([done.row["pair"], done.row["rank"]])


KNOBS = (Knob(AcceptedPairs(count=4), accepted, {"count": 2, "beta": 1e-3}),)
