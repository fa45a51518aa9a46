"""Contextual bandits: a row is one choice, rewards by task and choice are known, so every number is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Context, Method, Part, Term
from policyopt.evaluation.experiments._common import (
    Outcome,
    fit,
    probabilities,
    random_table,
    total_variation,
    uniform_table,
)
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import share_right, strings_with_target, target_probability
from policyopt.evaluation.experiments.gradients import KeepGradient
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.samplers import Draw, Judge, attempt
from policyopt.types import Batch, Finish, Round
from policyopt.worlds.sequences import SequenceWorld, bandit


def some_right(prompts: int, arms: int, right: int, rng: torch.Generator) -> Tensor:
    """(prompts, arms) rewards: 1 for `right` random arms of every prompt, 0 for the others."""
    return (torch.rand(prompts, arms, generator=rng).argsort(1) < right).float()


def expected_reward(table: Tensor, rewards: Tensor) -> float:
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
    rewards = some_right(32, 8, 1, stream(seed, "epochs on a batch"))
    before, worths = uniform_table(32, 8).logits.detach().log_softmax(-1).double(), []

    def change(run: Run, done: Round) -> float:
        nonlocal before
        now = probabilities(run).double().log()
        kl = float((before.exp() * (before - now)).sum(1).mean())
        before = now
        worths.append(expected_reward(now.exp(), rewards))
        return kl

    done = fit(method, bandit(rewards), {"policy": uniform_table(32, 8)}, rounds, seed, change)
    notes = {
        "expected reward after training": worths[-1],
        "entropy after training (nats)": _entropy(done.table),
        "change of the first round (nats)": done.watched[0],
    }
    return done.outcome("KL of a round's change (nats)", notes, value=max(done.watched), score=worths[-1])


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
        return total_variation(probabilities(run).double(), best)

    made = replace(method, sampling=_WrittenBy("sampler", size))
    models = {"policy": uniform_table(4, 8), "sampler": sampler}
    done = fit(made, bandit(rewards), models, rounds, seed, distance)
    notes = {"entropy after training (nats)": _entropy(done.table), "entropy of the optimum (nats)": _entropy(best)}
    return done.outcome("total variation to the optimum", notes, score=-done.watched[-1])


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
    return done.outcome("share of the attainable reward")


def right_arms(method: Method, seed: int, rounds: int) -> Outcome:
    """32 prompts, 16 arms of which one is right, reward 1 or 0.

    value and score: probability of the right arm after training, mean over prompts, exact.
    """
    rewards = some_right(32, 16, 1, stream(seed, "right arms"))
    done = fit(
        method,
        bandit(rewards),
        {"policy": uniform_table(32, 16)},
        rounds,
        seed,
        lambda run, _: expected_reward(probabilities(run), rewards),
    )
    notes = {
        "probability of the right arm, mean over rounds": sum(done.watched) / len(done.watched),
        "entropy after training (nats)": _entropy(done.table),
    }
    return done.outcome("probability of the right arm", notes)


def beside_a_reference(method: Method, seed: int, rounds: int, level: float = 0.5) -> Outcome:
    """4 prompts, 20 arms: one is worth 1, the recorded one 0.7, others below 0.3.

    value: rows, generated or read, until the expected reward reaches `level` (all rows if never). score: the reward
    after training.
    """
    rng = stream(seed, "beside a reference")
    order = torch.rand(4, 20, generator=rng).argsort(1)
    rewards = (0.3 * torch.rand(4, 20, generator=rng)).scatter(1, order[:, :1], 1.0).scatter(1, order[:, 1:2], 0.7)
    world = replace(bandit(rewards), recordings=order[:, 1:2])
    policy = {"policy": uniform_table(4, 20)}
    done = fit(method, world, policy, rounds, seed, lambda run, _: expected_reward(probabilities(run), rewards))
    reached = next((i for i, worth in enumerate(done.watched) if worth >= level), rounds - 1)
    best = done.table.gather(1, order[:, :1])[:, 0]
    notes = {
        "expected reward after training": done.watched[-1],
        "share of prompts whose best arm has a probability above one half": float((best > 0.5).float().mean()),
    }
    rows = done.rows * (reached + 1) // rounds
    return done.outcome("expected reward", notes, value=float(rows), score=done.watched[-1])


def rarely_right(method: Method, seed: int, rounds: int) -> Outcome:
    """32 prompts of two arms, one right; the policy is fixed and right at rates from Beta(1, 9).

    value: ln of the variance of the gradient over batches, summed over its entries, over its squared mean (squares of
    the mean are corrected for the variance of the estimate).
    """
    rates = 1 - torch.rand(32, generator=stream(seed, "rarely right")).double() ** (1 / 9)
    rates = rates.clamp(0.005, 0.995)
    policy = Table(torch.stack([rates, 1 - rates], 1).log().float())
    rewards = torch.tensor([[1.0, 0.0]]).repeat(32, 1)
    squares: list[float] = []

    def watch(run: Run, done: Round) -> float:
        squares.append(float((done.kept.step["advantage"][done.kept.own] ** 2).mean()))
        return squares[-1]

    still = replace(method, update=KeepGradient({"policy": None}))
    done = fit(still, bandit(rewards), {"policy": policy}, rounds, seed, watch)
    kept = torch.stack(done.run.cells["gradients"]).double().flatten(1)
    variance = float(kept.var(0).sum())
    squared = float((kept.mean(0) ** 2).sum()) - variance / rounds
    notes = {"mean square of an advantage": sum(squares) / rounds}
    value = math.log(variance / squared)
    return done.outcome("mean square of an advantage", notes, value=value, score=-value)


@dataclass(frozen=True)
class _ShareLeft(Part):
    """1 - (length symbol + 1) / 8."""

    def __call__(self, batch: Batch) -> Tensor:
        return 1 - (batch.step["_step"][:, 0].double() + 1) / 8


def _by_symbol(term: Term) -> Term:
    """A term whose loss asks how short a row is, told so by the row's symbol."""
    loss: Any = term.loss
    return replace(term, loss=replace(loss, bonus=_ShareLeft())) if hasattr(loss, "bonus") else term


def lengths_and_rightness(
    method: Method, seed: int, rounds: int, weights: tuple[float, ...] = (1.0,), option: str = ""
) -> Outcome:
    """32 prompts; a row is one choice of 8 lengths (of 1/8..1). From the length that its prompt needs, a random one, a
    row is right with probability 0.8, below it with 0.05. Every weight is a run of its own: of the method's option, or
    without one of a penalty weight * length in the reward.

    value: the lowest accuracy over weights after training, mean over prompts, exact.
    """
    rng = stream(seed, "lengths and rightness")
    needed = torch.randint(8, (32,), generator=rng)
    chance = torch.where(torch.arange(8) >= needed[:, None], 0.8, 0.05).double()
    length = (torch.arange(8).double() + 1) / 8
    accuracies, lengths, rows, curve = [], [], 0, ()
    for weight in weights:
        penalty = 0.0 if option else weight
        luck = stream(seed, f"luck {weight}")

        def reward(strings: Tensor, task: Tensor, penalty: float = penalty, luck: torch.Generator = luck) -> Tensor:
            right = torch.rand(len(task), generator=luck) < chance[task, strings[:, 0]]
            return right.float() - penalty * length[strings[:, 0]].float()

        terms = tuple(_by_symbol(term) for term in method.objective)
        made = replace(method, objective=terms)
        made = override(made, {option: weight}) if option else made
        world = SequenceWorld(32, 8, 1, reward)
        policy = {"policy": uniform_table(32, 8)}
        done = fit(made, world, policy, rounds, seed, lambda run, _: float((probabilities(run) * chance).sum(1).mean()))
        accuracies.append(done.watched[-1])
        lengths.append(float((done.table.double() * length).sum(1).mean()))
        rows, curve = rows + done.rows, done.watched if accuracies[-1] == min(accuracies) else curve
    notes = {f"accuracy at weight {n + 1} of {len(weights)}": a for n, a in enumerate(accuracies)}
    notes |= {f"mean length at weight {n + 1} of {len(weights)}": x for n, x in enumerate(lengths)}
    notes["mean length of the least right answers"] = float((needed.double() + 1).mean() / 8)
    return Outcome(min(accuracies), min(accuracies), rows, curve, "accuracy at the worst weight", notes)


def half_hard(method: Method, seed: int, rounds: int) -> Outcome:
    """40 prompts, 16 arms of which one is right; for every second prompt the policy starts with a probability of about
    0.006 for it, for the others it starts uniform.

    value and score: probability of the right arm after training, mean over the worst 8 prompts, exact.
    """
    rewards = some_right(40, 16, 1, stream(seed, "half hard"))
    logits = torch.zeros(40, 16)
    logits[::2] -= 2.4 * rewards[::2]

    def worst(run: Run, done: Round) -> float:
        return float((probabilities(run).double() * rewards).sum(1).sort().values[:8].mean())

    done = fit(method, bandit(rewards), {"policy": Table(logits)}, rounds, seed, worst)
    notes = {
        "probability of the right arm, mean over all prompts": expected_reward(done.table, rewards),
        "entropy after training (nats)": _entropy(done.table),
    }
    label = "probability of the right arm, worst fifth"
    return done.outcome(label, notes)


@dataclass(frozen=True)
class _EndsIfRight(SequenceWorld):
    """Rows end at once if their first symbol is right; wrong ones go on to the limit."""

    target: Tensor | None = None

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = super().append(batch, step, logp, live, version)
        assert self.target is not None
        over = live & (step == self.target[batch.row["task"]]) & (batch.steps == 0)
        finish = torch.where(over, int(Finish.STOPPED), added.row["finish"])
        return added.with_rows({"finish": finish})


def long_wrong_answers(method: Method, seed: int, rounds: int, filler: int = 7) -> Outcome:
    """32 prompts; the first of 16 symbols decides: a right row ends there, a wrong one has `filler` more symbols, which
    teach nothing.

    value: entropy of the first symbol after training, nats, mean over prompts, exact.
    score: probability of a right row.
    """
    limit = 1 + filler
    target = torch.randint(16, (32,), generator=stream(seed, "long wrong answers"))

    def right(strings: Tensor, task: Tensor) -> Tensor:
        return (strings[:, 0] == target[task]).float()

    world = _EndsIfRight(32, 16, limit, right, target=target)
    traces: dict[str, list[float]] = {}

    def entropy(run: Run, done: Round) -> float:
        for name in ("policy/clip_low", "policy/clip_high", "policy/good", "policy/bad"):
            traces.setdefault(name, []).append(done.metrics.get(name, 0.0))
        return _entropy(probabilities(run)[::limit])

    done = fit(method, world, {"policy": uniform_table(32 * limit, 16)}, rounds, seed, entropy)
    success = float(done.table[::limit].gather(1, target[:, None]).mean())
    good, bad = traces["policy/good"][0], traces["policy/bad"][0]
    notes = {
        "probability of a right answer after training": success,
        "positive share of the surrogate, first round (0: not watched)": good / max(good + bad, 1e-9),
        "searched lower bound of the ratio, mean (1: not watched)": 1 - sum(traces["policy/clip_low"]) / rounds,
        "searched upper bound of the ratio, mean (1: not watched)": 1 + sum(traces["policy/clip_high"]) / rounds,
    }
    return done.outcome("entropy of the first symbol (nats)", notes, score=success)


def entropy_near_target(method: Method, seed: int, rounds: int, target: float = 1.0) -> Outcome:
    """32 prompts, 32 arms of which 8 are right, reward 1 or 0.

    value: |entropy - target|, nats, entropy exact and averaged over the last 30 rounds. score: expected reward.
    """
    rewards = some_right(32, 32, 8, stream(seed, "entropy near target"))
    policy = {"policy": uniform_table(32, 32)}
    done = fit(method, bandit(rewards), policy, rounds, seed, lambda run, _: _entropy(probabilities(run)))
    late = sum(done.watched[-30:]) / len(done.watched[-30:])
    worth = expected_reward(done.table, rewards)
    notes = {"entropy, mean over the last 30 rounds (nats)": late, "expected reward after training": worth}
    return done.outcome("entropy (nats)", notes, value=abs(late - target), score=worth)


def distance_from_the_first(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 4 of 6 symbols, reward = share of right symbols; the first policy has normal logits of
    deviation 0.5.

    value: KL(policy || first policy) per symbol at the end less that after half of the rounds, nats, exact.
    score: expected share of right symbols after training.
    """
    target = strings_with_target(4, 6, 4, stream(seed, "distance from the first"))
    world = SequenceWorld(4, 6, 4, share_right(target))
    policy = random_table(world.states, 6, 0.5, seed, "policy")
    first = policy.logits.detach().double().log_softmax(-1)

    def distance(run: Run, done: Round) -> float:
        now = probabilities(run).double()
        return float((torch.special.xlogy(now, now) - now * first).sum(1).mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, distance)
    share = float(target_probability(done.table, target).mean())
    notes = {"KL from the first policy (nats)": done.watched[-1], "expected share of right symbols": share}
    value = done.watched[-1] - done.watched[rounds // 2 - 1]
    return done.outcome("KL from the first policy (nats)", notes, value=value, score=share)
