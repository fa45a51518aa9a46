"""What rounds of rows bring: frequencies of choices, rounds of wrong rewards, rows of uneven lengths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Chain, Method, Part, Program, Stage
from policyopt.evaluation.experiments._common import (
    CountingEngine,
    Outcome,
    fit,
    probabilities,
    random_table,
    total_variation,
    uniform_table,
)
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import strings_with_target
from policyopt.ops.random import generator
from policyopt.ops.sequences import on_last, total_reward
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Finish, Round
from policyopt.worlds.sequences import SequenceWorld, bandit


def sampling_error(method: Method, seed: int, rounds: int) -> Outcome:
    """8 bandits of 8 arms and a fixed random policy; no choice is better than another.

    value: total variation between the frequencies of choices in all rows so far and the policy, mean over bandits.
    """
    policy = random_table(8, 8, 1.0, seed, "policy")
    wanted = policy.logits.detach().softmax(-1)
    count = torch.zeros(8, 8)

    def error(run: Run, done: Round) -> float:
        rows = done.judged[done.judged.row["group"] >= (run.step - 1) << 20]  # those of this round
        count.index_put_((rows.row["task"], rows.step["_step"][:, 0]), torch.ones(len(rows)), accumulate=True)
        return total_variation(count / count.sum(1, keepdim=True), wanted)

    done = fit(method, bandit(torch.zeros(8, 8)), {"policy": policy}, rounds, seed, error)
    notes = {"after the first round": done.watched[0]}
    return done.outcome("total variation", notes, score=-done.watched[-1])


@dataclass(frozen=True)
class TurnedRound(Part):
    """Rewards of 0 and 1 of whole rounds turned round, each round with a probability."""

    share: float
    seed: int

    def __call__(self, ctx: Any, batch: Batch) -> Batch:
        if float(torch.rand((), generator=generator(self.seed, "turned round", ctx.step))) >= self.share:
            return batch
        return batch.with_steps({"reward": on_last(batch, 1 - total_reward(batch))})


def rounds_turned_round(method: Method, seed: int, rounds: int, share: float = 0.1) -> Outcome:
    """16 bandits of 12 arms, each with its own probability of reward 1; in one round of ten all rewards are turned
    round.

    value: expected true reward, mean over rounds, exact.
    """
    rng = stream(seed, "rounds turned round")
    chance = torch.rand(16, 12, generator=rng)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return (torch.rand(len(task), generator=rng) < chance[task, strings[:, 0]]).float()

    world = SequenceWorld(16, 12, 1, reward)
    turned = replace(method, reward=Chain((method.reward, TurnedRound(share, seed))))
    signals: list[float] = []

    def worth(run: Run, done: Round) -> float:
        signals.append(done.metrics.get("improvement", 0.0))
        return float((probabilities(run) * chance).sum(1).mean())

    done = fit(turned, world, {"policy": uniform_table(16, 12)}, rounds, seed, worth)
    value = sum(done.watched) / len(done.watched)
    notes = {
        "best expected reward": float(chance.amax(1).mean()),
        "expected reward after training": done.watched[-1],
        "share of rounds with a signal below 0": sum(x < 0 for x in signals) / len(signals),
    }
    return done.outcome("expected true reward", notes, value=value)


@dataclass(frozen=True)
class Uneven(SequenceWorld):
    """Rows of task i end after length[i] symbols."""

    length: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.int64))

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = super().append(batch, step, logp, live, version)
        over = live & (added.lengths >= self.length[added.row["task"]])
        return added.with_rows({"finish": added.row["finish"].masked_fill(over, int(Finish.STOPPED))})


def uneven_lengths(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks of strings of 2 to 32 of 4 symbols; a right symbol pays 1 / length. Training goes on until `rounds` times
    32 steps of decoding, in each of which every row that is generated takes a step.

    value: steps of decoding until the expected share of right symbols, mean over tasks, is 0.8 (or all), exact.
    """
    length = torch.tensor([2, 2, 2, 4, 4, 8, 16, 32])
    limit, choices, budget = 32, 4, 32 * rounds
    target = strings_with_target(8, choices, limit, stream(seed, "uneven lengths"))

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return (strings == target[task][:, : strings.shape[1]]).float() / length[task][:, None]

    world = Uneven(8, choices, limit, reward, length=length)
    inside = torch.arange(limit) < length[:, None]
    engine, policy = CountingEngine(), uniform_table(world.states, choices)
    run = Run({"policy": policy}, world, engine, seed)
    spent, tokens, updates, reached, curve = 0, 0, 0, budget, []
    for done in train_rounds(run, Program((Stage(method, budget),))):
        fresh = done.judged.step.get("fresh", done.judged.own)
        spent, tokens, updates = spent + int(fresh.sum(1).max()), tokens + int(fresh.sum()), updates + 1
        chance = probabilities(run).view(8, limit, choices).gather(2, target[..., None])[..., 0]
        share = float((torch.where(inside, chance, 0.0).sum(1) / length).mean())
        while len(curve) < min(spent, budget) // 32:
            curve.append(share)
        if share >= 0.8:
            reached = min(reached, spent)
        if spent >= budget or reached < budget:
            break
    curve += [curve[-1] if curve else 0.8] * (rounds - len(curve))
    notes = {"symbols generated": float(tokens), "rounds": float(updates)}
    return Outcome(float(reached), -float(reached), engine.rows, tuple(curve), "share of right symbols", notes)
