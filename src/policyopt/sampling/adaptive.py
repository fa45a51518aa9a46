"""As many attempts as a task needs: rounds of sampling until an exit rule holds, and numbers that are allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count, group_mean
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.types import Batch, concatenate

Rule = Literal["balanced", "positive"]


def balanced_choice(right: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Numbers of `size` rows (all if there are fewer) of right (n,), at random: half of them right and half wrong, as
    far as there are; what one side lacks the other fills."""
    order = torch.randperm(len(right), generator=rng).to(right.device)
    good, bad = order[right[order]], order[~right[order]]
    half = size // 2
    wrong = min(len(bad), max(half, size - len(good)))
    return torch.cat([good[: size - wrong], bad[:wrong]]).sort().values


@dataclass(frozen=True)
class AdaptiveGroup(Part):
    """Reinforce-Ada (arXiv 2510.04996): up to `rounds` rounds of `per_round` attempts; a task leaves when it has
    size / 2 right and size / 2 wrong rows (rule "balanced"), or one right row ("positive"). Of all its rows a random
    `size`, half right and half wrong as far as there are, is the group.

    right: reward above which a row is right. Row columns `rate` and `drawn`: mean reward and number of the scored rows
    of the task before the choice; the metric `reward` is of the choice, `reward_drawn` of all.
    """

    size: int = 4
    per_round: int = 8
    rounds: int = 4
    rule: Rule = "balanced"
    right: float = 0.7
    temperature: float = 1.0

    writes = ("rate", "drawn")

    def __post_init__(self) -> None:
        Group(self.per_round, self.temperature)
        if self.size < 2 or self.size % 2 or self.rounds < 1:
            raise CompositionError(
                f"a balanced group has an even size of 2 or more, in 1 or more rounds; got {self.size}, {self.rounds}"
            )

    def finished(self, right: Tensor, wrong: Tensor) -> Tensor:
        """(N,) whether tasks with so many right and wrong rows need no more."""
        if self.rule == "positive":
            return right >= 1
        return (right >= self.size / 2) & (wrong >= self.size / 2)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        active, found = draw(), []
        while True:
            found.append(judge(attempt(ctx, active, self.per_round, self.temperature)))
            rows = concatenate(found)
            if len(found) == self.rounds:
                break
            of_task = (active.row["group"][:, None] == rows.row["group"]) & rows.row["scored"]
            good = total_reward(rows) > self.right
            done = self.finished((of_task & good).sum(1), (of_task & ~good).sum(1))
            if bool(done.all()):
                break
            active = active[~done]
        reward, group, scored = total_reward(rows), rows.row["group"], rows.row["scored"]
        ctx.meter.mean("reward_drawn", reward, scored)
        ctx.meter.add("attempts", len(rows), len(group.unique()))
        drawn, rate = group_count(group, scored), group_mean(reward, group, scored)
        return self.chosen(ctx, rows.with_rows({"rate": rate, "drawn": drawn}))

    def chosen(self, ctx: Context, rows: Batch) -> Batch:
        rng, right, kept = ctx.rng("chosen rows"), total_reward(rows) > self.right, []
        for one in rows.row["group"].unique():
            members = ((rows.row["group"] == one) & rows.row["scored"]).nonzero()[:, 0]
            kept.append(members[balanced_choice(right[members], self.size, rng)])
        keep = torch.cat(kept)
        return rows[keep] if len(keep) else rows


def allocation(weights: Tensor, total: int) -> Tensor:
    """(N,) whole numbers in proportion to weights (N,) that sum to `total`: rounded to the nearest, then one more or
    less where the rounding error is largest (ties: the first). All weights 0: as equal as possible."""
    weights = weights.double()
    weights = weights if bool((weights > 0).any()) else torch.ones_like(weights)
    exact = total * weights / weights.sum()
    counts = (exact + 0.5).floor()
    while (missing := total - int(counts.sum())) != 0:
        sign = 1 if missing > 0 else -1
        error = torch.where((counts > 0) | (sign > 0), sign * (exact - counts), -torch.inf)
        counts[int(error.argmax())] += sign
    return counts.long()


def variance_weights(rate: Tensor, norm: Tensor, alpha: float, beta: float) -> Tensor:
    """G / sqrt(p + alpha / p^(beta - 1)) of acceptance rates p and gradient norms G (N,); 0 where one is 0 (arXiv
    2505.02391). alpha = 0: the allocation of least variance, G / sqrt(p)."""
    usable = (rate > 0) & (norm > 0)
    safe = torch.where(usable, rate, 1.0)
    return torch.where(usable, norm / (safe + alpha / safe ** (beta - 1)).sqrt(), 0.0)


@dataclass(frozen=True)
class AllocatedGroup(Part):
    """GVM (arXiv 2505.02391): `size` attempts a task on average, allocated by least variance. `pilot` attempts of every
    task, which are not trained on, tell its acceptance rate p and the mean norm G of the gradient of -log pi over its
    right rows; a task then gets attempts in proportion to G / sqrt(p + alpha / p^(beta - 1)), perhaps none.

    parameters: only those with this text in their names are differentiated for G ("": all). uniform: pilot rows are
    drawn, and all tasks get `size` attempts all the same: the baseline at equal cost. Row column `rate`: the pilot's p.
    """

    size: int = 8
    pilot: int = 8
    alpha: float = 1e-3
    beta: float = 2.0
    parameters: str = ""
    uniform: bool = False
    right: float = 0.5
    temperature: float = 1.0

    writes = ("rate",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        Group(self.pilot, self.temperature)
        if self.alpha < 0:
            raise CompositionError(f"alpha must not be negative, got {self.alpha}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        rows = judge(attempt(ctx, tasks, self.pilot, self.temperature))
        ctx.meter.mean("reward_drawn", total_reward(rows), rows.row["scored"])
        good = rows.row["scored"] & (total_reward(rows) > self.right)
        of_task = tasks.row["group"][:, None] == rows.row["group"]
        tried, accepted = (of_task & rows.row["scored"]).sum(1), (of_task & good).sum(1)
        rate = accepted / tried.clamp(min=1)
        total = self.size * len(tasks)
        if self.uniform:
            counts = torch.full_like(accepted, self.size)
        else:
            norms = torch.zeros(len(rows), dtype=torch.float64, device=rate.device)
            norms[good] = self.norms(ctx, rows[good])
            mean = (of_task * norms).sum(1) / accepted.clamp(min=1)
            counts = allocation(variance_weights(rate.double(), mean, self.alpha, self.beta), total).to(rate.device)
        ctx.meter.add("tasks_without_attempts", float((counts == 0).sum()), len(counts))
        index = torch.arange(len(tasks), device=rate.device).repeat_interleave(counts)
        asked = tasks[index].with_rows({"rate": rate.to(torch.get_default_dtype())[index]})
        return judge(attempt(ctx, asked, 1, self.temperature))

    def norms(self, ctx: Context, rows: Batch) -> Tensor:
        """(B,) float64: Euclidean norm of the gradient of every row's log-probability."""
        policy: Any = ctx.models["policy"]
        chosen = [p for n, p in policy.named_parameters() if self.parameters in n and p.requires_grad]
        if not chosen:
            raise CompositionError(
                f"no trained parameter of the policy has {self.parameters!r} in its name; there are "
                f"{[n for n, _ in policy.named_parameters()][:20]}"
            )
        found = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for row in range(len(rows)):
            one = rows[row : row + 1]
            logp = policy.score(one, None, full=False).logp[one.trained].sum()
            slopes = torch.autograd.grad(logp, chosen, allow_unused=True)
            found[row] = sum(float(s.double().square().sum()) for s in slopes if s is not None) ** 0.5
        return found
