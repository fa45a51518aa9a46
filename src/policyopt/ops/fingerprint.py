"""A number for a model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PRIME, _MOST = 1_000_003, 1 << 61


def fingerprint(model: nn.Module) -> int:
    """Equal for equal parameters and buffers, and changed by a change of a single bit: the bits of every tensor as
    integers, summed, tensors in their order. One pass over the memory. (Weights of one tensor that change places are
    not seen.)"""
    return digest(model.state_dict())


def digest(weights: Mapping[str, Any]) -> int:
    """The same of a state dict."""
    tensors = [tensor for tensor in weights.values() if isinstance(tensor, torch.Tensor)]
    if not tensors:
        return 0
    sums = []
    for tensor in tensors:
        plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        sums.append(plain.detach().contiguous().view(_INTEGERS[plain.element_size()]).sum(dtype=torch.int64))
    found = 0
    for value in torch.stack([one.cpu() for one in sums]).tolist():
        found = (found * _PRIME + value) % _MOST
    return found
