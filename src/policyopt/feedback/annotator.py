"""Preferences from an annotator that has an answer of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.seen import verdict
from policyopt.types import Batch, Tasks

Annotate = Callable[[Batch, Batch, Batch | None, torch.Generator], Tensor]


def by_model(ctx: Context, model: str) -> Annotate:
    """As a model of the run says, by its verdicts."""

    def annotate(first: Batch, second: Batch, own: Batch | None, rng: torch.Generator) -> Tensor:
        return verdict(ctx, model, first, second, own)

    return annotate


def strength_of(share: Float[Tensor, " pairs"], scale: float) -> Float[Tensor, " pairs"]:
    """scale |log q - log(1 - q)|, q kept off 0 and 1 by 1e-6."""
    share = share.clamp(1e-6, 1 - 1e-6)
    return scale * (share.log() - (-share).log1p()).abs()


@dataclass(frozen=True)
class AnnotatedPairs(Part):
    """The first two scored rows of every group as a pair, by the votes of an annotator that reads them in alternating
    order (self-reference feedback, arXiv 2406.11190). A tie makes no pair, its rows have rank -1. Row column
    `strength`: how sure it is, a margin for the loss of the reward model.

    reference: it first answers the task itself, as the model `annotator`, and reads its answer beside the two. The
    world compares: `annotate(first, second, own or None, rng) -> (P,)` its probability that the row it reads first is
    better; one verdict is drawn from it. A world that only puts the question, `verdicts(first, second, own or None)` ->
    rows that say the one and rows that say the other, leaves the answer to the model.
    """

    votes: int = 4
    scale: float = 1.0
    reference: bool = True
    annotator: str = "annotator"
    temperature: float = 1.0

    needs = "a world with an annotator"
    formula = (
        "m_b = scale |log q - log(1 - q)|, q = mean over votes of the probability that the annotator gives the first"
    )
    writes = ("pair", "rank", "strength")

    def __post_init__(self) -> None:
        if self.votes < 1 or self.scale < 0 or self.temperature < 0:
            raise CompositionError(
                f"need a vote, scale >= 0 and temperature >= 0, got {self.votes}, {self.scale} and {self.temperature}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        annotate = getattr(ctx.world, "annotate", None) or by_model(ctx, self.annotator)
        group, scored = batch.row["group"], batch.row["scored"]
        found = [((group == one) & scored).nonzero()[:2, 0] for one in group.unique()]
        pairs = [rows for rows in found if len(rows) == 2]
        rank, strength = torch.full_like(group, -1), torch.zeros_like(batch.row["temperature"])
        if pairs:
            sides = torch.stack(pairs).T
            own = self.own_answers(ctx, batch[sides[0]]) if self.reference else None
            ahead, share = self.polled(annotate, batch, sides, own, ctx.rng("annotator"))
            decided = ahead != 0
            better = torch.where(ahead > 0, sides[0], sides[1])
            worse = torch.where(ahead > 0, sides[1], sides[0])
            rank[better[decided]], rank[worse[decided]] = 0, 1
            strength[better[decided]] = strength_of(share, self.scale)[decided].to(strength.dtype)
            ctx.meter.mean("annotated", decided.double(), torch.ones_like(decided))
        return batch.with_rows({"pair": group.clone(), "rank": rank, "strength": strength})

    def own_answers(self, ctx: Context, rows: Batch) -> Batch:
        tasks: Tasks = ctx.world.tasks(rows.row["task"]).with_rows({"group": rows.row["group"]})
        return ctx.extend(ctx.world.start(tasks), self.annotator, self.temperature)

    def polled(
        self, annotate: Annotate, batch: Batch, sides: Tensor, own: Batch | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Votes for the first row less those for the second (P,), and the mean probability of the first."""
        ahead, total = torch.zeros(2, sides.shape[1], dtype=torch.float64)
        for vote in range(self.votes):
            one, other = sides if vote % 2 == 0 else sides.flip(0)
            likely = annotate(batch[one], batch[other], own, rng).double().cpu()
            wins = torch.rand(len(likely), generator=rng, dtype=torch.float64) < likely
            sign = 1 if vote % 2 == 0 else -1
            ahead = ahead + sign * (2 * wins.double() - 1)
            total = total + (likely if vote % 2 == 0 else 1 - likely)
        return ahead.to(sides.device), (total / self.votes).to(sides.device)
