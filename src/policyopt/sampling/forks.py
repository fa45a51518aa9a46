"""Two futures from one state: dialogues that are forked before one of their turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.pieces import pieces
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.seen import rewinding
from policyopt.types import Batch

Which = Literal["uniform", "last"]


@dataclass(frozen=True)
class ForkedTurns(Part):
    """Every task is rolled out once, cut before one of its turns and finished anew `size` times from there, by the
    policy and whoever answers it (REFUEL, arXiv 2410.04612, algorithm 1). Only the turn after the cut is trained.

    turn: which one: any, each as likely, or the last. by: the model that writes what comes before the cut. The world
    goes back to a prefix (`rewind`); what it adds itself afterwards may differ between the futures.
    """

    size: int = 2
    temperature: float = 1.0
    turn: Which = "uniform"
    by: str = "policy"

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.turn not in get_args(Which):
            raise CompositionError(f"turn is one of {get_args(Which)}, not {self.turn!r}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        whole = ctx.extend(ctx.world.start(draw()), self.by, self.temperature)
        turns = pieces(whole, "turn")
        count = torch.bincount(turns.row, minlength=len(whole))
        chance = torch.rand(len(whole), generator=ctx.rng("forked turn"), dtype=torch.float64).to(whole.device)
        place = count - 1 if self.turn == "last" else (chance * count).long()
        at = torch.searchsorted(turns.row, torch.arange(len(whole), device=whole.device)) + place
        steps, forked = turns.first[at], whole.step["turn"][turns.row[at], turns.first[at]]
        index = torch.arange(len(whole), device=whole.device).repeat_interleave(self.size)
        rewind = rewinding(ctx.world)
        begun = rewind(Batch(whole.row, whole.step)[index], steps[index])
        begun = begun.with_steps({"train": torch.zeros_like(begun.step["train"])})
        rows = ctx.extend(begun, temperature=self.temperature)
        here = rows.own & (rows.step["turn"] == forked[index][:, None])
        return judge(rows.with_steps({"train": here}))
