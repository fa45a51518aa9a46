"""Other contexts of the same rows: what a policy would have been told without a part of its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import NO_TOKEN, Batch


@dataclass(frozen=True)
class MaskedContext(Part):
    """Every row also has the context `name`: its own with patches of `patch` neighbouring places blacked out, each with
    probability `share` (PAPO, arXiv 2507.06448: random patches of an image). filler: the token that stands for black.

    A world that has one input to be masked beside others says which places may be, `maskable(batch) -> (B, P)`; without
    it every place of the prompt may.
    """

    name: str = "masked"
    share: float = 0.6
    patch: int = 14
    filler: int = 0

    needs = "contexts of tokens"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.patch < 1 or self.filler < 0:
            raise CompositionError(
                f"need share in 0..1, patch >= 1 and a filler token, got {self.share}, {self.patch} and {self.filler}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        prompt = batch.context()
        may = prompt != NO_TOKEN
        maskable = getattr(ctx.world, "maskable", None)
        if maskable is not None:
            may = may & maskable(batch)
        # Patches are counted from the first place that may be masked: prompts are padded on the left.
        place = (may.long().cumsum(1) - 1).clamp(min=0)
        patches = -(-prompt.shape[1] // self.patch)
        draws = torch.rand(len(batch), max(patches, 1), generator=ctx.rng("masked context"), dtype=torch.float64)
        black = (draws.to(prompt.device) < self.share).gather(1, place // self.patch)
        return batch.with_context(torch.where(may & black, self.filler, prompt), self.name)
