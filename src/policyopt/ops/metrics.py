"""How far what was said is from what was wanted: numbers, sets, sequences. The worlds' grades are made of these."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.ops.diversity import edit_distance

UNREADABLE = 1e6
"""The relative error of something that is no number, and of any number where 0 was wanted."""


def relative_error(said: Float[Tensor, " B"], wanted: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """|y - yhat| / |y|; nan where nothing could be read counts as `UNREADABLE`, and so does any other number than 0
    where 0 was wanted (arXiv 2504.03724's release divides by 0 there)."""
    error = (said - wanted).abs() / wanted.abs()
    error = torch.where((wanted == 0) & (said == 0), 0.0, error)
    return torch.where(error.isfinite(), error, UNREADABLE)


def error_rate(said: Sequence[object], wanted: Sequence[object]) -> float:
    """Edit distance over the length of what was wanted (at least 1): of characters CER, of words WER. May exceed 1."""
    return edit_distance(said, wanted) / max(len(wanted), 1)


def jaccard(said: Set[object], wanted: Set[object]) -> float:
    """|A & B| / |A | B|, 0 if both are empty."""
    union = said | wanted
    return len(said & wanted) / len(union) if union else 0.0


def recall(said: Set[object], wanted: Set[object]) -> float:
    """|A & B| / |B|, the share of what was wanted that was said; 1 if nothing was wanted."""
    return len(said & wanted) / len(wanted) if wanted else 1.0
