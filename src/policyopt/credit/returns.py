"""Advantages from returns: reward to go with a moving baseline, and generalised advantages with a critic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part, named_by
from policyopt.ops.masked import select, whiten
from policyopt.ops.sequences import fold_rewards, generalised_advantage, pack_own, to_go
from policyopt.types import Batch, Finish, Round

BASELINE = Cell("baseline", lambda: {"mean": 0.0, "rounds": 0})
"""{"mean", "rounds"} of the rounds so far of the stage that begins with round "stage"."""


def baseline_of(ctx: Context) -> dict[str, Any]:
    """The baseline of this stage: another one's is of other rewards and another policy."""
    held, begun = ctx[BASELINE], ctx.step - ctx.stage_step
    return held if held.get("stage", begun) == begun else BASELINE.initial()


def returns_to_go(batch: Batch, gamma: float) -> Tensor:
    """(B, T) discounted reward to go over own steps, rewards of others' steps included; 0 elsewhere."""
    (rewards,), back = pack_own(batch, fold_rewards(batch, batch.step["reward"]))
    return select(batch.own, to_go(rewards, gamma).gather(1, back))


@dataclass(frozen=True)
class ReturnToGo(Part):
    """REINFORCE (Williams 1992): discounted reward to go over own steps, less a moving-average baseline.

    The baseline is the bias-corrected average of earlier rounds, never of the rows it is subtracted from, so the
    gradient stays unbiased. `UpdateBaseline` writes it.
    """

    gamma: float = 1.0

    formula = "A_bt = sum_{k>=t} gamma^(k-t) r_bk - baseline"

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise CompositionError(f"gamma must be in 0..1, got {self.gamma}")

    writes = ("advantage", "return")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        returns = returns_to_go(batch, self.gamma)
        scored = batch.own & batch.row["scored"][:, None]
        advantage = select(scored, returns - baseline_of(ctx)["mean"])
        return batch.with_steps({"advantage": advantage, "return": returns})


@dataclass(frozen=True)
class UpdateBaseline(Part):
    """After hook: the baseline moves towards the mean return of the round's own steps."""

    decay: float = 0.9

    def __call__(self, ctx: Context, done: Round) -> None:
        rows = done.credited
        counted = rows.own & rows.row["scored"][:, None]
        if not counted.any():
            return
        old, mean = baseline_of(ctx), float(rows.step["return"][counted].mean())
        rounds = old["rounds"] + 1
        # Bias-corrected, so that the first rounds are not pulled towards 0.
        share = (1 - self.decay) / (1 - self.decay**rounds)
        moved = old["mean"] + share * (mean - old["mean"])
        ctx[BASELINE] = {"mean": moved, "rounds": rounds, "stage": ctx.step - ctx.stage_step}


@dataclass(frozen=True)
class GeneralisedAdvantage(Part):
    """GAE (arXiv 1506.02438) with a critic: over own steps, tool and hint steps skipped.

    A terminated row is worth 0 after its end; one that was cut or goes on (a transition of a recording), what the
    critic says of its last state.
    `return` = advantage + value, fixed before whitening.
    """

    gamma: float = 1.0
    lam: float = 0.95
    critic: str = "critic"
    whitened: bool = True

    formula = "A_t = sum_k (gamma lam)^(k-t) (r_k + gamma V_{k+1} - V_k)"
    critics = named_by("critic")

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise CompositionError(f"gamma and lam must be in 0..1, got {self.gamma} and {self.lam}")

    writes = ("advantage", "return", "value")

    def discount(self, batch: Batch) -> Tensor:
        """(B, T) what the state after each own step counts."""
        return torch.full_like(batch.step["reward"], self.gamma)

    def beyond(self, batch: Batch, values: Tensor) -> Tensor:
        """(B,) the worth of what follows each row's last step, from values (B, T + 1)."""
        last = batch.valid.sum(1, keepdim=True)
        stopped = batch.row["finish"] == Finish.STOPPED
        return torch.where(stopped, 0.0, values.gather(1, last)[:, 0])

    def values(self, ctx: Context, batch: Batch) -> Tensor:
        """(B, T + 1) the value before each step and after the last."""
        critic: Any = ctx.models[self.critic]
        return critic.value(batch)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            values = self.values(ctx, batch)
        final = self.beyond(batch, values)
        values = values[:, :-1]
        rewards = fold_rewards(batch, batch.step["reward"])
        (rewards, packed, mask, discount), back = pack_own(batch, rewards, values, batch.own, self.discount(batch))
        advantage = generalised_advantage(rewards, packed, final, mask, discount, self.lam)
        advantage = select(batch.own, advantage.gather(1, back))
        value = select(batch.own, values)
        scored = batch.own & batch.row["scored"][:, None]
        returns = advantage + value
        if self.whitened:
            advantage = whiten(advantage, scored, ctx.total)
        return batch.with_steps({"advantage": select(scored, advantage), "return": returns, "value": value})
