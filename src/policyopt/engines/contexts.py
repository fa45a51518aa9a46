"""What a decoder with a cache starts from: every row's prompt and steps so far, each distinct one once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from policyopt.policies.packing import pack
from policyopt.types import Batch


@dataclass(frozen=True)
class Contexts:
    """tokens: from column 0, padded on the right with token 0. length: without the padding, at least 1.
    of_row: each batch row's context."""

    tokens: Int[Tensor, "U C"]
    length: Int[Tensor, " U"]
    of_row: Int[Tensor, " B"]


def distinct_contexts(batch: Batch) -> Contexts:
    packed = pack(batch)
    # The length takes part in the comparison: token 0 may also be a real one.
    keys = torch.cat([packed.last[:, None] + 1, packed.tokens], 1)
    distinct, of_row = keys.unique(dim=0, return_inverse=True)
    return Contexts(distinct[:, 1:].contiguous(), distinct[:, 0], of_row)
