"""Binary images that are drawn scale by scale: 1, 2 x 2, 4 x 4, 8 x 8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from policyopt.types import Batch, Tasks
from policyopt.worlds.sequences import SequenceWorld

SIDES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Scales(SequenceWorld):
    """A row is 85 pixels from coarse to fine; its turns are the scales. The state of a pixel: its place, and the pixel
    of the coarser scale that it lies in: (task * 85 + place) * 2 + that pixel."""

    @property
    def states(self) -> int:
        return 2 * self.size * self.limit

    @cached_property
    def parent(self) -> Tensor:
        """(85,) the place of the coarser pixel; the first is its own."""
        found, before = [0], 0
        for side in SIDES[1:]:
            half = side // 2
            found += [before + (i // 2) * half + j // 2 for i in range(side) for j in range(side)]
            before += half * half
        return torch.tensor(found)

    @cached_property
    def scale(self) -> Tensor:
        """(85,) the number of the scale."""
        return torch.cat([torch.full((side * side,), n) for n, side in enumerate(SIDES)])

    def start(self, tasks: Tasks) -> Batch:
        return super().start(tasks).with_rows({"_state": tasks.id * self.limit * 2})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        # All rows are as long as each other.
        added, place = super().append(batch, step, logp, live, version), batch.steps
        turn = added.step["turn"].clone()
        turn[:, place] = self.scale[place]
        following = min(place + 1, self.limit - 1)
        coarser = added.step["_step"][:, self.parent[following]] if place + 1 < self.limit else torch.zeros_like(step)
        state = (batch.row["task"] * self.limit + following) * 2 + coarser
        return added.with_steps({"turn": turn}).with_rows({"_state": state})

    def lit(self, policy: Tensor) -> Tensor:
        """(tasks, 85) the probability that a pixel is lit, exact, policy (S, 2)."""
        chance = policy[:, 1].view(self.size, self.limit, 2)
        found = [chance[:, 0, 0]]
        for place in range(1, self.limit):
            above = found[int(self.parent[place])]
            found.append(chance[:, place, 0] * (1 - above) + chance[:, place, 1] * above)
        return torch.stack(found, 1)


def stripes() -> Tensor:
    """(N, 85) images of stripes at every scale: coarser pixels are lit where most of theirs are (half: where the first
    of them is)."""
    images = []
    for width in (1, 2, 4):
        for shift in (0, 1):
            line = (torch.arange(8) // width + shift) % 2
            images += [line[None].expand(8, 8), line[:, None].expand(8, 8)]
    rows = []
    for image in images:
        scales = [image]
        while scales[0].shape[0] > 1:
            fine = scales[0]
            quarters = torch.stack([fine[0::2, 0::2], fine[0::2, 1::2], fine[1::2, 0::2], fine[1::2, 1::2]])
            total = quarters.sum(0)
            scales.insert(0, torch.where(total == 2, quarters[0], (total > 2).long()))
        rows.append(torch.cat([scale.flatten() for scale in scales]))
    return torch.stack(rows)


def pretrained(world: Scales) -> Tensor:
    """(S, 2) logits of what follows what in stripes, by counting (one extra of each)."""
    images = stripes()
    counts = torch.ones(world.limit, 2, 2)
    for place in range(world.limit):
        coarser = images[:, world.parent[place]] if place else torch.zeros(len(images), dtype=torch.int64)
        counts[place].index_put_((coarser, images[:, place]), torch.tensor(1.0), accumulate=True)
    return (counts / counts.sum(-1, keepdim=True)).log().view(-1, 2).repeat(world.size, 1)
