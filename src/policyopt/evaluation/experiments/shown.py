"""Contextual bandits whose choices are shown: by teachers, as equivalent answers, by faulty demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Given, Method, Role
from policyopt.evaluation.experiments._common import (
    Outcome,
    fit,
    probabilities,
    uniform_table,
)
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments.bandits import expected_reward, some_right
from policyopt.evaluation.experiments.rewards import Demonstrated
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.types import Batch, Round, Tasks
from policyopt.worlds.sequences import SequenceWorld, bandit


@dataclass(frozen=True)
class _Shown(SequenceWorld):
    """Several recordings of a task, (size, copies, limit); which one is asked for by the column `copy`."""

    def recorded(self, tasks: Tasks) -> Batch:
        assert self.recordings is not None
        strings = self.recordings[tasks.id, tasks.row["copy"] % self.recordings.shape[1]]
        return self.complete(tasks, strings)


def _looked_up(rewards: Tensor) -> Any:
    return lambda strings, task: rewards[task, strings[:, 0].clamp(min=0)]


def taught_prompts(method: Method, seed: int, rounds: int) -> Outcome:
    """16 prompts, 16 arms of which one is right; for every second prompt the policy starts with a probability of about
    1e-5 for it. Two teachers show an arm of every prompt: one the right one, the other in half of the prompts a wrong
    one.

    value and score: probability of the right arm after training, mean over prompts, exact.
    """
    rng = stream(seed, "taught prompts")
    rewards = some_right(16, 16, 1, rng)
    best = rewards.argmax(1)
    other = torch.where(torch.rand(16, generator=rng) < 0.5, best, (best + 1) % 16)
    logits = torch.zeros(16, 16)
    logits[::2] -= 9 * rewards[::2]
    world = _Shown(16, 16, 1, _looked_up(rewards), recordings=torch.stack([best, other], 1)[:, :, None])
    policy = {"policy": Table(logits)}
    done = fit(method, world, policy, rounds, seed, lambda run, _: expected_reward(probabilities(run), rewards))
    right = (done.table * rewards).sum(1)
    notes = {
        "probability of the right arm, prompts never solved at first": float(right[::2].mean()),
        "probability of the right arm, other prompts": float(right[1::2].mean()),
        "share of right ones among the traces": float((torch.stack([best, other]) == best).float().mean()),
    }
    return done.outcome("probability of the right arm", notes)


def equivalent_answers(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks of 12 answers, 4 of them equivalent; all are recorded. The reference is uniform; the policy differs from
    it by normal logits of deviation 1.

    value: variance over a task's equivalent answers of log pi - log pi_ref after training, mean over tasks, exact.
    """
    rng = stream(seed, "equivalent answers")
    rewards = some_right(8, 12, 4, rng)
    start = torch.randn(8, 12, generator=rng)
    shown = torch.arange(12).expand(8, 12)[:, :, None]
    right = rewards > 0

    def spread(run: Run, done: Round) -> float:
        logp = probabilities(run).double().log()
        return float(logp[right].view(8, 4).var(1, correction=0).mean())

    # The reference is given, so that it is not a copy of the policy.
    roles = {**method.roles, "reference": Role("uniform", when="collected")}
    made = replace(method, roles=roles, models={"uniform": Given("the uniform policy")})
    models = {"policy": Table(start), "uniform": uniform_table(8, 12)}
    done = fit(made, _Shown(8, 12, 1, _looked_up(rewards), recordings=shown), models, rounds, seed, spread)
    logp = done.table.double().log()
    margin = logp[right].view(8, 4).mean(1) - logp[~right].view(8, 8).mean(1)
    notes = {"mean log-ratio of equivalent less that of other answers": float(margin.mean())}
    return done.outcome("variance of log-ratios", notes, score=-done.watched[-1])


def interval_of_a_signal(method: Method, seed: int, rounds: int, bins: int = 20) -> Outcome:
    """8 prompts, each with an interval of a line of 20 bins; an answer is a pair of bins, worth the intersection over
    union of its interval and the prompt's (0 if it ends before it begins). The true one is recorded.

    value: rows, generated or read, until the expected intersection over union is 0.5 (all if never).
    """
    rng = stream(seed, "interval of a signal")
    first = torch.randint(bins - 4, (8,), generator=rng)
    last = first + 2 + (torch.rand(8, generator=rng) * (bins - first - 3)).long()
    start, end = torch.arange(bins).repeat_interleave(bins), torch.arange(bins).repeat(bins)
    overlap = (torch.minimum(end, last[:, None]) - torch.maximum(start, first[:, None]) + 1).clamp(min=0)
    union = (torch.maximum(end, last[:, None]) - torch.minimum(start, first[:, None]) + 1).clamp(min=1)
    rewards = torch.where(end >= start, overlap / union, 0.0)
    world = replace(bandit(rewards), recordings=(first * bins + last)[:, None])
    policy = {"policy": uniform_table(8, bins * bins)}
    done = fit(method, world, policy, rounds, seed, lambda run, _: expected_reward(probabilities(run), rewards))
    reached = next((i for i, worth in enumerate(done.watched) if worth >= 0.5), rounds - 1)
    rows = done.rows * (reached + 1) // rounds
    notes = {"expected intersection over union after training": done.watched[-1]}
    return done.outcome("expected intersection over union", notes, value=float(rows), score=done.watched[-1])


def faulty_demonstrations(method: Method, seed: int, rounds: int) -> Outcome:
    """24 contexts, 8 choices of which one is right; 32 demonstrations of each context, of which a tenth show a random
    other choice. The policy starts with normal logits of deviation 1.

    value and score: probability of the right choice after training, mean over contexts, exact.
    """
    rng = stream(seed, "faulty demonstrations")
    target = torch.randint(8, (24,), generator=rng)
    shown = target.repeat(32)
    other = (shown + torch.randint(1, 8, shown.shape, generator=rng)) % 8
    shown = torch.where(torch.rand(shown.shape, generator=rng) < 0.1, other, shown)
    rewards = torch.nn.functional.one_hot(target, 8).float()
    world = Demonstrated(replace(bandit(rewards), recordings=shown[:, None]))
    policy = {"policy": Table(torch.randn(24, 8, generator=rng))}
    done = fit(method, world, policy, rounds, seed, lambda run, _: expected_reward(probabilities(run), rewards))
    notes = {
        "share of right demonstrations": float((shown == target.repeat(32)).float().mean()),
        "share of contexts whose likeliest choice is right": float((done.table.argmax(1) == target).float().mean()),
    }
    return done.outcome("probability of the right choice", notes)
