"""Advantages of turns relative to other turns, and sums of advantages of several levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.credit.groups import standardised
from policyopt.ops.groups import group_centred
from policyopt.ops.pieces import Pieces, pair_ids, pieces
from policyopt.ops.sequences import fold_rewards
from policyopt.seen import asked
from policyopt.types import Batch


@dataclass(frozen=True)
class TurnAdvantage(Part):
    """What a turn was worth, less the mean over the turns it is compared with, given to all of the turn's own steps.

    column: step ids that make the turns of a row; None: every row is one. of: a turn's reward "own", with the later
    ones "to_go" (discounted by `gamma` per turn), or its row's "total". among: the turns of the same "group", those of
    the group at the same "place" in their rows, or those of the group that began in the same "state" (GiGPO's anchor
    groups, arXiv 2505.10978; the world's `state_keys`: turns of any row and time). scaled: divided by the deviation.
    A turn without another to compare with gets 0.
    """

    column: str | None = "turn"
    of: Literal["to_go", "own", "total"] = "to_go"
    among: Literal["group", "place", "state"] = "group"
    gamma: float = 1.0
    scaled: bool = False
    ddof: int = 1
    epsilon: float = 1e-6
    reward: str = "reward"
    advantage: str = "advantage"

    formula = "A_k = (g_k - mean_U g) / (1 or std_U g + epsilon), g_k = sum_{l>=k} gamma^(l-k) r_l of turn k"
    writes = named_by("advantage")

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or self.ddof not in (0, 1) or self.epsilon < 0:
            raise CompositionError(
                f"need gamma in 0..1, ddof 0 or 1 and epsilon >= 0, got {self.gamma}, {self.ddof} and {self.epsilon}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.reward, *(() if self.column is None else (self.column,)))

    def worth(self, batch: Batch, turns: Pieces) -> Tensor:
        """(n,) of every turn."""
        reward = turns.total(fold_rewards(batch, batch.step[self.reward]))
        if self.of == "own":
            return reward
        if self.of == "to_go":
            return turns.to_go(reward, self.gamma)
        return reward.new_zeros(len(batch)).index_add(0, turns.row, reward)[turns.row]

    def compared(self, ctx: Context, batch: Batch, turns: Pieces) -> Tensor:
        """(n,) an id per turn: turns that share it are compared."""
        group = batch.row["group"][turns.row]
        if self.among == "group":
            return group
        if self.among == "place":
            return pair_ids(group, turns.place)
        keys = asked(ctx.world, "state_keys", "which steps were taken in the same state")(batch)
        return pair_ids(group, keys[turns.row, turns.first])

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        turns = pieces(batch, self.column)
        worth, ids = self.worth(batch, turns), self.compared(ctx, batch, turns)
        scored = batch.row["scored"][turns.row]
        if self.scaled:
            advantage = standardised(worth, ids, scored, self.epsilon, self.ddof)
        else:
            advantage = group_centred(worth, ids, scored)
        return batch.with_steps({self.advantage: turns.spread(advantage)})


@dataclass(frozen=True)
class AddedAdvantages(Part):
    """The advantage is the weighted sum of several columns of advantages, one per level of credit."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"advantage": 1.0})

    formula = "A_bt = sum_c w_c A^c_bt"

    writes = ("advantage",)

    def __post_init__(self) -> None:
        if not self.weights:
            raise CompositionError("advantages are added from at least one column; weights is empty")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        columns = [weight * batch.step[name] for name, weight in self.weights.items()]
        return batch.with_steps({"advantage": torch.stack(columns).sum(0)})
