"""Tasks that are drawn in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.random import generator
from policyopt.seen import asked
from policyopt.types import Tasks


@dataclass(frozen=True)
class PairedTasks(Part):
    """Both members of every drawn pair, side by side; pairs in epochs of random order (PairUni, arXiv 2510.25682).

    The world's `task_pairs()` gives the task ids (M, 2) and the similarity (M,) of each pair, 1 or more for members
    that were made for each other. Row columns of the tasks: `pairing`, the number of the pair, and `similarity`.
    """

    def __call__(self, ctx: Context, count: int) -> Tasks:
        if count % 2:
            raise CompositionError(f"tasks are drawn in pairs: selection.count must be even, not {count}")
        members, similarity = asked(ctx.world, "task_pairs", "which of its tasks belong together")()
        found: list[int] = []
        position = ctx.drawn // 2
        while len(found) < count // 2:
            epoch, offset = divmod(position + len(found), len(members))
            order = torch.randperm(len(members), generator=generator(ctx.seed, "pairs", epoch))
            found.extend(order[offset : offset + count // 2 - len(found)].tolist())
        drawn = torch.tensor(found)
        tasks: Any = ctx.world.tasks(members[drawn].flatten())
        return tasks.with_rows(
            {"pairing": drawn.repeat_interleave(2), "similarity": similarity[drawn].repeat_interleave(2)}
        )
