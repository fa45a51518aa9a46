"""Scores read from what a judge says of the digits 0 to 5, without sampling a word."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def expected_digit(logits: Float[Tensor, "*lead digits"]) -> Float[Tensor, "*lead"]:
    """sum_s s softmax(logits)_s / (n - 1), s = 0 ... n - 1: in 0..1 (arXiv 2510.16888, eq. 5, n = 6)."""
    most = logits.shape[-1] - 1
    digits = torch.arange(most + 1, dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) * digits).sum(-1) / most
