"""Contextual bandits: a row is one choice, rewards by task and choice are known, so every number is exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policyopt.compose import Context, Method, Part
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.run import Run
from policyopt.sampling.samplers import Draw, Judge, attempt
from policyopt.types import Batch, Round
from policyopt.worlds.sequences import bandit


def _right_arms(prompts: int, arms: int, right: int, rng: torch.Generator) -> Tensor:
    """(prompts, arms) rewards: 1 for `right` random arms of every prompt, 0 for the others."""
    return (torch.rand(prompts, arms, generator=rng).argsort(1) < right).float()


def _worth(table: Tensor, rewards: Tensor) -> float:
    """Expected reward, mean over prompts."""
    return float((table.double() * rewards).sum(1).mean())


def _entropy(table: Tensor) -> float:
    return float(torch.special.entr(table.double()).sum(1).mean())


@dataclass(frozen=True)
class _WrittenBy(Part):
    """Groups that another model writes."""

    model: str
    size: int

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        return judge(attempt(ctx, draw(), self.size, 1.0, self.model))


def epochs_on_a_batch(method: Method, seed: int, rounds: int) -> Outcome:
    """32 prompts, 8 arms of which one is right; all of a round's rows are used for several epochs.

    value: the largest KL(policy before || after) of a round, mean over prompts, nats, exact.
    score: expected reward after training, exact.
    """
    rewards = _right_arms(32, 8, 1, stream(seed, "epochs on a batch"))
    before, worths = uniform_table(32, 8).logits.detach().log_softmax(-1).double(), []

    def change(run: Run, done: Round) -> float:
        nonlocal before
        now = probabilities(run).double().log()
        kl = float((before.exp() * (before - now)).sum(1).mean())
        before = now
        worths.append(_worth(now.exp(), rewards))
        return kl

    done = fit(method, bandit(rewards), {"policy": uniform_table(32, 8)}, rounds, seed, change)
    notes = {
        "expected reward after training": worths[-1],
        "entropy after training (nats)": _entropy(done.table),
        "change of the first round (nats)": done.watched[0],
    }
    return Outcome(max(done.watched), worths[-1], done.rows, done.watched, "KL of a round's change (nats)", notes)


def rows_of_another(method: Method, seed: int, rounds: int, size: int = 8, beta: float = 0.2) -> Outcome:
    """4 prompts, 8 arms with rewards of 0..1, all rows written by a fixed sampler whose logits have deviation 1; policy
    and reference start uniform.

    value: total variation from the policy to reference exp(R / beta) / Z, mean over prompts, exact.
    score: its negative.
    """
    rng = stream(seed, "rows of another")
    rewards = torch.rand(4, 8, generator=rng)
    sampler = uniform_table(4, 8)
    with torch.no_grad():
        sampler.logits.copy_(torch.randn(4, 8, generator=rng))
    best = (rewards.double() / beta).softmax(1)

    def distance(run: Run, done: Round) -> float:
        return float((probabilities(run).double() - best).abs().sum(1).mean() / 2)

    made = replace(method, sampling=_WrittenBy("sampler", size))
    models = {"policy": uniform_table(4, 8), "sampler": sampler}
    done = fit(made, bandit(rewards), models, rounds, seed, distance)
    notes = {"entropy after training (nats)": _entropy(done.table), "entropy of the optimum (nats)": _entropy(best)}
    return Outcome(
        done.watched[-1], -done.watched[-1], done.rows, done.watched, "total variation to the optimum", notes
    )


def offset_prompts(method: Method, seed: int, rounds: int, offset: float = 10.0) -> Outcome:
    """32 prompts, 8 arms with rewards of 0..1 and, on top, a number of the prompt from -offset to offset, which teaches
    nothing.

    value: (expected reward - that of the uniform policy) / (best - that of the uniform policy) after training, mean
    over prompts, exact, without the offsets.
    """
    rng = stream(seed, "offset prompts")
    rewards = torch.rand(32, 8, generator=rng)
    level = offset * (2 * torch.rand(32, 1, generator=rng) - 1)
    low, high = rewards.mean(1).double(), rewards.max(1).values.double()

    def share(run: Run, done: Round) -> float:
        gained = (probabilities(run).double() * rewards).sum(1) - low
        return float((gained / (high - low)).mean())

    done = fit(method, bandit(rewards + level), {"policy": uniform_table(32, 8)}, rounds, seed, share)
    return Outcome(done.watched[-1], done.watched[-1], done.rows, done.watched, "share of the attainable reward")
