"""What the searches of a row brought: information that was new, passages that were not, questions that were asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Searches:
    """What a world says of the own steps that end a search; rows of other steps are -1 and nan.

    documents (B, T, K): ids of what was returned. similar (B, T, M): the largest similarity, in 0..1, of what was
    returned to each of M gold documents. keywords (B, T, J): how well the query matches each of J groups of keywords,
    in 0..1. Gold documents or groups that a row's task does not have are nan throughout.
    """

    documents: Int[Tensor, "B T K"]
    similar: Float[Tensor, "B T M"]
    keywords: Float[Tensor, "B T J"]

    @property
    def made(self) -> Bool[Tensor, "B T"]:
        return (self.documents >= 0).any(2)

    def among(self, steps: Bool[Tensor, "B T"]) -> Searches:
        """Those of some steps only."""
        some, nan = steps[..., None], torch.nan
        documents = torch.where(some, self.documents, -1)
        return Searches(documents, torch.where(some, self.similar, nan), torch.where(some, self.keywords, nan))


def information_gain(similar: Float[Tensor, "B T M"]) -> Float[Tensor, "B T"]:
    """(1 / m) sum_j max(c_tj - M_(t-1)j, 0), M the best similarity so far: sums to the mean of the best of a row."""
    known = ~similar.isnan()
    best = torch.where(known, similar, 0.0).cummax(1).values
    before = torch.cat([torch.zeros_like(best[:, :1]), best[:, :-1]], 1)
    golden = known.any(1).sum(1).clamp(min=1)
    return (best - before).sum(2) / golden[:, None]


def repeated(documents: Int[Tensor, "B T K"], *, within: bool = False) -> Float[Tensor, "B T"]:
    """The share of a search's documents that an earlier search of the row returned; within: or the same search, before
    them in its list."""
    made = (documents >= 0).any(2)
    # Searches are few among the steps of a text: compared are they alone, side by side from the left.
    order = (~made).long().argsort(dim=1, stable=True)[:, : int(made.sum(1).max()) if len(made) else 0]
    held = documents.gather(1, order[..., None].expand(-1, -1, documents.shape[2]))
    flat, size = held.flatten(1), documents.shape[2]
    place = torch.arange(flat.shape[1], device=flat.device)
    round_ = place // size
    earlier = place[None, :] < place[:, None] if within else round_[None, :] < round_[:, None]
    seen = ((flat[:, :, None] == flat[:, None, :]) & earlier).any(2) & (flat >= 0)
    share = seen.view_as(held).sum(2) / (held >= 0).sum(2).clamp(min=1)
    return torch.zeros(made.shape, dtype=share.dtype, device=share.device).scatter(1, order, share)


def asked_share(keywords: Float[Tensor, "B T J"]) -> Float[Tensor, " B"]:
    """The mean over groups of keywords of the best match among the searches assigned to the group; a search is
    assigned to the one group that it matches best (the first of equals)."""
    known = ~keywords.isnan()
    match = torch.where(known, keywords, 0.0)
    best = match.argmax(2, keepdim=True)
    assigned = torch.zeros_like(match).scatter(2, best, match.gather(2, best))
    groups = known.any(1).sum(1)
    return assigned.amax(1).sum(1) / groups.clamp(min=1) if match.shape[1] else match.new_zeros(len(match))
