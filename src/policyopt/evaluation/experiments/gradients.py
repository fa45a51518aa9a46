"""Gradients at a fixed policy: their variance over batches and their bias against the exact gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, Method, Part
from policyopt.evaluation.experiments._common import Outcome, fit, random_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.types import Batch
from policyopt.update.gradient import losses
from policyopt.worlds.sequences import SequenceWorld

TASKS, CHOICES = 16, 6
GRADIENTS = Cell("gradients", list)


@dataclass(frozen=True)
class KeepGradient(Part):
    """An update that keeps the gradient of the loss and leaves the policy where it is."""

    optimizers: Mapping[str, None]

    def __call__(self, ctx: Any, batch: Batch) -> None:
        table = ctx.models["policy"].logits
        (gradient,) = torch.autograd.grad(sum(losses(ctx, batch, ctx.stage.terms), torch.zeros(())), table)
        ctx[GRADIENTS] = [*ctx[GRADIENTS], -gradient]


def bandit_gradients(method: Method, seed: int, rounds: int) -> Outcome:
    """16 softmax bandits of 6 arms whose mean rewards differ by task (standard deviation 3), reward noise 1.

    value: ln of the total variance of a task's gradient over batches (all tasks and 4 rows a task in each batch);
    the policy stays fixed. The first tenth of the batches is left out, for moving averages to settle.
    """
    rng = stream(seed, "bandit gradients")
    means = 3 * torch.randn(TASKS, 1, generator=rng) + torch.randn(TASKS, CHOICES, generator=rng)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return means[task, strings[:, 0]] + torch.randn(len(task), generator=rng)

    policy = random_table(TASKS, CHOICES, 0.5, seed, "policy")
    still = replace(method, update=KeepGradient({"policy": None}))
    world = SequenceWorld(TASKS, CHOICES, 1, reward)
    done = fit(still, world, {"policy": policy}, rounds, seed, lambda run, _: 0.0)
    # A task has 1 / TASKS of the rows of the mean loss.
    kept = torch.stack(done.run.cells["gradients"]).double()[rounds // 10 :] * TASKS
    variance = kept.var(0, unbiased=True).sum(1)
    p = policy.logits.detach().softmax(-1).double()
    exact = p * (means - (p * means).sum(1, keepdim=True))
    error = (kept.mean(0) - exact) / (kept.std(0) / len(kept) ** 0.5)
    return Outcome(
        value=float(variance.mean().log()),
        score=0.0,
        rows=done.rows,
        notes={
            "variance of a task's gradient": float(variance.mean()),
            "root mean square bias in standard errors (1 if unbiased)": float(error.square().mean().sqrt()),
        },
    )
