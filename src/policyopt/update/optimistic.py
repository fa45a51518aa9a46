"""Tables by counting: an optimistic value of every state and choice from all transitions so far, and exponential
weights over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Part
from policyopt.types import Batch

COUNTED = Cell("counted transitions", dict)
"""visits (S, A), rewards (S, A) summed, reached (S, A, S), at (S,) the step at which a state comes up (-1: never), and
of the last fit: fitted (S, A) the visits, values (S, A)."""


def logits_of(model: Any, use: str) -> torch.nn.Parameter:
    """The table (S, V) of logits that a policy is; others are refused."""
    logits = getattr(model, "logits", None)
    if not isinstance(logits, torch.nn.Parameter) or logits.dim() != 2:
        raise CompositionError(
            f"{use} a table of logits, which {type(model).__name__} has not; use a tabular policy, or a method whose "
            "steps are gradients, such as mdpo"
        )
    return logits


def nothing_counted(states: int, choices: int) -> dict[str, Tensor]:
    grid = torch.zeros(states, choices, dtype=torch.float64)
    return {
        "visits": grid,
        "rewards": grid.clone(),
        "reached": torch.zeros(states, choices, states, dtype=torch.float64),
        "at": torch.full((states,), -1),
        "fitted": grid.clone(),
        "values": grid.clone(),
    }


def counted(before: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """With the own steps of more rows. What follows a row's end is worth nothing and is not counted as reached."""
    row, step = batch.own.nonzero(as_tuple=True)
    state, choice = batch.step["_state"][row, step], batch.step["_step"][row, step]
    one = torch.ones(len(row), dtype=torch.float64)
    remaining = batch.own.flip(1).cumsum(1).flip(1)[row, step]
    goes_on = remaining > 1
    reached = batch.following("_state")[row, step]
    after = {name: column.clone() for name, column in before.items()}
    after["visits"].index_put_((state, choice), one, accumulate=True)
    after["rewards"].index_put_((state, choice), batch.step["reward"][row, step].double(), accumulate=True)
    after["reached"].index_put_((state[goes_on], choice[goes_on], reached[goes_on]), one[goes_on], accumulate=True)
    after["at"][state] = batch.own.cumsum(1)[row, step] - 1
    return after


def optimistic_values(counts: Mapping[str, Tensor], horizon: int, bonus: float) -> Float[Tensor, "S A"]:
    """Q = min(H - h, mean (r + max Q of the state reached) + bonus / sqrt(1 + n)), by as many sweeps as a row has
    steps; the mean is 0 where n = 0."""
    visits = counts["visits"]
    mean = counts["rewards"] / visits.clamp(min=1)
    move = counts["reached"] / visits.clamp(min=1)[..., None]
    most = (horizon - counts["at"].clamp(min=0)).double()[:, None]
    width = bonus / (1 + visits).sqrt()
    values = torch.zeros_like(visits)
    for _ in range(horizon):
        values = torch.minimum(mean + move @ values.max(1).values + width, most.expand_as(visits))
    return values


@dataclass(frozen=True)
class OptimisticWeights(Part):
    """pi <- pi exp(rate Q) / Z after every round, Q an optimistic estimate of the best values from all transitions so
    far (arXiv 2505.03710, tabular instantiation). Q is fitted anew, and the policy set back to uniform, only when some
    state and choice has been seen twice as often as at the last fit.

    rate: eta. bonus: width of the optimism, 0 is none. horizon: H, the most steps of a row. For tables whose states
    tell the time; rewards in 0..1.
    """

    rate: float = 1.0
    bonus: float = 1.0
    horizon: int = 16

    formula = "logits += rate Q, Q(s, a) = min(H - h, mean (r + max_a' Q(s', a')) + bonus / sqrt(1 + n(s, a)))"
    honours_limits = False

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.bonus < 0 or self.horizon < 1:
            raise CompositionError(
                f"need rate > 0, bonus >= 0 and horizon >= 1, got {self.rate}, {self.bonus} and {self.horizon}"
            )

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """Models that it moves."""
        return {"policy": self}

    def __call__(self, ctx: Any, batch: Batch) -> None:
        logits = logits_of(ctx.models["policy"], "exponential weights move")
        counts = counted(ctx[COUNTED] or nothing_counted(*logits.shape), batch)
        with torch.no_grad():
            if bool((counts["visits"] >= 2 * counts["fitted"].clamp(min=0.5)).any()):
                counts["values"] = optimistic_values(counts, self.horizon, self.bonus)
                counts["fitted"] = counts["visits"].clone()
                logits.zero_()
                ctx.meter.add("refits", 1, 1)
            else:
                ctx.meter.add("refits", 0, 1)
            logits.add_(self.rate * counts["values"].to(logits))
        ctx[COUNTED] = counts
        ctx.count_update()
