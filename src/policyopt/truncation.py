"""Truncated sampling: which choices are left to sample from, and where batches record them. Imports nothing of ours.

A sampler that cuts choices off renormalises over the rest. Its log-probabilities are those of another distribution than
the policy's, unless whoever scores the steps renormalises over the same rest: so it is recorded, as ids, and not
recomputed (the policy that scores may be another one). `ops.kept` writes and reads the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CUT = "_cut"
"""Row column (B, 3): top_k, top_p and min_p that the row is sampled with."""
KEPT = "_kept"
"""Row column (B, W) int32: the choices kept at the row's steps, one step after another, ascending within a step."""
SPAN = "_kept_span"
"""Step column (B, T, 2): where the choices kept at the step begin in `KEPT`, and how many they are; 0: nothing was cut
off there."""

_SORTED = 1024  # choices that are put in order at first; most distributions have their mass in fewer


@dataclass(frozen=True)
class Truncation:
    """What is left of softmax(logits / temperature), in the order of Hugging Face's samplers.

    top_k: the so many most probable choices; None for all (Fan et al. 2018). top_p: of these, renormalised, the most
    probable ones up to the first with which they have a mass of top_p (Holtzman et al. 2020). min_p: of these, the ones
    at least min_p times as probable as the most probable one (Nguyen et al. 2024). Of equally probable choices the one
    of the lower id comes first. The most probable choice is always left.
    """

    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether anything can be cut off."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0

    def of_rows(self, like: Tensor) -> Float[Tensor, "B 3"]:
        """The column `CUT` for as many rows as another column has."""
        numbers = [float(self.top_k or 0), self.top_p, self.min_p]
        return torch.tensor(numbers, device=like.device).expand(len(like), -1).clone()


def left_of(logits: Float[Tensor, "R V"], heat: Float[Tensor, " R"], cut: Float[Tensor, "R 3"]) -> Bool[Tensor, "R V"]:
    """What every row's truncation leaves of softmax(logits / heat). A function of each row alone."""
    choices, most = logits.shape[1], [int(top_k) for top_k in cut[:, 0].unique()]
    first = min(choices, max(most) if all(most) and most else max([_SORTED, *most]))
    found, whole = _left_of_sorted(logits, heat, cut, first)
    if first < choices and not bool(whole.all()):
        rest = (~whole).nonzero()[:, 0]
        found[rest] = _left_of_sorted(logits[rest], heat[rest], cut[rest], choices)[0]
    return found


def _left_of_sorted(logits: Tensor, heat: Tensor, cut: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """With the `first` most probable choices alone in order; and (R,) whether these were enough to tell."""
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    top_k, top_p, min_p = (column[:, None].to(wide) for column in cut.unbind(1))
    heat, top = heat[:, None].to(wide), logits.topk(first).values
    listed = (top_k == 0) | (torch.arange(first, device=logits.device) < top_k)
    # Probabilities relative to the most probable choice's, and the mass of what top-k leaves in the same unit.
    p = torch.where(listed, ((top - top[:, :1]) / heat).exp(), 0.0)
    total = p.sum(1, keepdim=True)
    if first < logits.shape[1] and bool(((top_k == 0) & (top_p < 1)).any()):
        every = ((logits - top[:, :1]) / heat.to(logits.dtype)).exp().sum(1, keepdim=True, dtype=wide)
        total = torch.where(top_k > 0, total, every)
    kept = listed & ((top_p >= 1) | (p.cumsum(1) - p < top_p * total)) & (p >= min_p)
    count = kept.sum(1)
    least = top.gather(1, (count - 1).clamp(min=0)[:, None])
    found = (logits >= least) & (logits > -torch.inf)
    tied = (found.sum(1) > count).nonzero()[:, 0]
    if len(tied):  # some that equal the last one come after it
        equal = logits[tied] == least[tied]
        room = count[tied] - (logits[tied] > least[tied]).sum(1)
        found[tied] &= ~equal | (equal.cumsum(1) <= room[:, None])
    return found, (count < first) | (first == logits.shape[1]) | (cut[:, 0] == first)


def recording(row: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The columns of a batch with those of a record in which nothing is cut off."""
    task, kind = row["task"], step["kind"]
    rows = {CUT: Truncation().of_rows(task), KEPT: torch.zeros(len(task), 0, dtype=torch.int32, device=task.device)}
    span = torch.zeros(*kind.shape, 2, dtype=torch.int64, device=kind.device)
    return {**rows, **row}, {SPAN: span, **step}
