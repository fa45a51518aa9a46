"""Process rewards of a model that was trained on outcomes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.kept import as_written
from policyopt.ops.masked import select
from policyopt.ops.pieces import pieces
from policyopt.ops.sequences import on_last
from policyopt.seen import SeenBatch
from policyopt.types import Batch

Paid = Literal["each", "min", "mean", "sum"]


def of_pieces(
    gap: Float[Tensor, "B T"], batch: Batch, piece: Literal["turn", "step"]
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Sums of a number per own step over each piece of its row, on the piece's last step; and where those are."""
    if piece == "step":
        return select(batch.own, gap), batch.own
    found = pieces(batch, "turn")
    ends = torch.zeros_like(batch.own).index_put((found.row, found.last), torch.ones_like(found.row, dtype=torch.bool))
    return found.on_last(found.total(select(batch.own, gap)), gap), ends


@dataclass(frozen=True)
class ImplicitProcess(Part):
    """Adds beta times the log-ratio of a model that was trained on outcomes to its reference, step of reasoning by step
    of reasoning (arXiv 2412.01981, eq. 4): q_k - q_{k - 1}, where q_k is the soft value under the reference of the
    prefix that ends with step k.

    piece: a step of reasoning is a turn of the row, or every single step. paid: "each" on its own last step; else one
    number on the row's last: the paper's score of a whole response for best-of-n is their "min", the outcome "sum".
    """

    beta: float = 0.05
    model: str = "implicit"
    against: str = "reference"
    piece: Literal["turn", "step"] = "turn"
    paid: Paid = "each"

    formula = "r_k = beta sum_{t of k} (log pi_model(bt) - log pi_against(bt)), at the end of step k"
    version = 2
    roles = named_by("model", "against")

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.paid not in get_args(Paid) or self.piece not in ("turn", "step"):
            raise CompositionError(
                f"need beta > 0, piece 'turn' or 'step' and paid one of {get_args(Paid)}, got {self.beta}, "
                f"{self.piece!r} and {self.paid!r}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return ("turn",) if self.piece == "turn" else ()

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        # A reward is never scaled by a temperature; what roles say of tempered rows is.
        plain = as_written(batch)
        with torch.no_grad():
            seen = SeenBatch(ctx, plain)
            said: dict[str, Any] = {role: seen[role].detach() for role in self.roles}
        process, ends = of_pieces(self.beta * (said[self.model].logp - said[self.against].logp), batch, self.piece)
        ctx.meter.mean("process_reward", process, ends)
        if self.paid == "each":
            added = process
        elif self.paid == "min":
            least = torch.where(ends, process, torch.inf).amin(1) if batch.steps else process.sum(1)
            added = on_last(batch, torch.where(ends.any(1), least, 0.0))
        else:
            count = ends.sum(1).clamp(min=1) if self.paid == "mean" else 1
            added = on_last(batch, process.sum(1) / count)
        paid = batch.with_steps({"reward": batch.step["reward"] + added})
        return paid.with_scores(said) if plain is batch else paid
