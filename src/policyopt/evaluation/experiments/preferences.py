"""Direct objectives on pairs and lists of answers, against optima that are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import (
    CountingEngine,
    Outcome,
    fit,
    probabilities,
    total_variation,
    uniform_table,
)
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import RecordedAnswers, Wrapped, labelled_answers, unpaid
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Categorical, Round, Scores, Tasks
from policyopt.worlds.sequences import SequenceWorld, bandit


@dataclass(frozen=True)
class RankedStrings(Wrapped):
    """Recorded lists of strings (M, K, limit) of tasks (M,), the best first, with row columns (M, K, ...) beside."""

    lists: Tensor
    of: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.lists)

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        length = self.lists.shape[1]
        every = tasks.repeat(length)
        rows = self.inner.complete(Tasks(self.of[every.id], every.row), self.lists[tasks.id].flatten(0, 1))
        given = {name: column[tasks.id].flatten(0, 1) for name, column in self.columns.items()}
        pair = torch.arange(len(tasks)).repeat_interleave(length)
        return rows.with_rows({"pair": pair, "rank": torch.arange(length).repeat(len(tasks)), **given})


class ArmFeatures(nn.Module):
    """logits of an arm = features (A, D) @ weights (D,), in every context."""

    kind = "tabular"
    features: Tensor

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features)
        self.weights = nn.Parameter(torch.zeros(features.shape[1]))

    @property
    def logits(self) -> Tensor:
        return (self.features @ self.weights)[None]

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Any:
        dist = Categorical.of(self.logits[batch.step["_state"]])
        return Scores(dist.log_prob(batch.step["_step"]), dist.entropy(), dist if full else None)


def unseen_arm(method: Method, seed: int, rounds: int) -> Outcome:
    """A log-linear policy over 3 arms, uniform at first; one pair, arm 0 over arm 1, again and again. Arm 2 was never
    seen, is bad, and lies beyond arm 0 in the direction from arm 1.

    value: probability of the unseen arm after training, exact.
    """
    rng = stream(seed, "unseen arm")
    chosen = torch.tensor([1.0, 0.0, 0.0]) + 0.05 * torch.randn(3, generator=rng)
    rejected = torch.tensor([0.4, 0.8, 0.0]) + 0.05 * torch.randn(3, generator=rng)
    features = torch.stack([chosen, rejected, chosen + 3 * (chosen - rejected) + torch.tensor([0.0, 0.0, 1.0])])
    inner = SequenceWorld(
        1, 3, 1, unpaid, pairs=torch.tensor([[[0], [1]]]), pair_tasks=torch.zeros(1, dtype=torch.int64)
    )

    def unseen(run: Run, done: Round) -> float:
        return float(probabilities(run)[0, 2])

    done = fit(method, RecordedAnswers(inner), {"policy": ArmFeatures(features)}, rounds, seed, unseen)
    notes = {"probability of the chosen arm": float(done.table[0, 0])}
    return done.outcome("probability of the unseen arm", notes, score=-done.watched[-1])


def flipped_labels(method: Method, seed: int, rounds: int, beta: float = 1.0, flips: float = 0.3) -> Outcome:
    """4 contexts, 10 answers of rewards with deviation 1.5; 50,000 pairs of a uniform policy, labels by Bradley-Terry,
    of which 30% are turned round.

    value: total variation of the policy to pi_ref exp(r / beta) / Z, mean over contexts, exact.
    """
    rng = stream(seed, "flipped labels")
    reward, p = 1.5 * torch.randn(4, 10, generator=rng), torch.full((4, 10), 0.1)
    world, best = labelled_answers(p, reward, 50_000, rng, flips), (reward / beta).softmax(1)

    def distance(run: Run, done: Round) -> float:
        return total_variation(probabilities(run).double(), best.double())

    done = fit(method, world, {"policy": uniform_table(4, 10)}, rounds, seed, distance)
    notes = {
        "expected reward": float((done.table * reward).sum(1).mean()),
        "expected reward of the optimum": float((best * reward).sum(1).mean()),
    }
    return done.outcome("total variation to the optimum", notes, score=-done.watched[-1])


@dataclass(frozen=True)
class _Mixed:
    """Pairs of two worlds in turn."""

    first: RecordedAnswers
    second: RecordedAnswers

    @property
    def size(self) -> int:
        return self.first.size

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        own = self.first.recorded_pairs(tasks)
        other = self.second.recorded_pairs(tasks)
        safe = (tasks.id % 2 == 1).repeat_interleave(2)
        step = {**own.step, "_step": torch.where(safe[:, None], other.step["_step"], own.step["_step"])}
        return Batch(own.row, step)


def helpful_then_safe(
    method: Method, seed: int, rounds: int, first: str = "", weight: float = 2.0, settings: Any = None
) -> Outcome:
    """8 answers with a reward r and a safety g, 30,000 pairs labelled by each (Bradley-Terry) from a uniform policy.
    first: a method for the first half of the rounds, on the pairs by r; the method then has those by g. Without: the
    method has pairs of both kinds in turn.

    value: total variation to pi_ref exp(r + weight g) / Z (beta = 1), exact.
    """
    rng = stream(seed, "helpful then safe")
    reward, safety = torch.randn(1, 8, generator=rng), torch.randn(1, 8, generator=rng)
    p = torch.full((1, 8), 1 / 8)
    by_reward, by_safety = (labelled_answers(p, worth, 30_000, rng) for worth in (reward, safety))
    best = (reward + weight * safety).softmax(1)
    engine, watched, used, half = CountingEngine(), [], 0, rounds // 2
    if first:
        begun = override(load(first), settings or {})
        stages = (Stage(begun, half), Stage(method, rounds - half))
        run = Run({"policy": uniform_table(1, 8)}, by_reward, engine, seed, worlds={"safety": by_safety})
    else:
        stages = (Stage(method, rounds),)
        run = Run({"policy": uniform_table(1, 8)}, _Mixed(by_reward, by_safety), engine, seed)
    for done in train_rounds(run, Program(stages)):
        used += len(done.judged)
        watched.append(total_variation(probabilities(run).double(), best.double()))
        if len(watched) == half:
            middle = probabilities(run)
    now = probabilities(run)
    notes = {
        "expected reward": float((now * reward).sum()),
        "expected safety": float((now * safety).sum()),
        "expected safety half way": float((middle * safety).sum()),
        "expected safety of the optimum": float((best * safety).sum()),
    }
    return Outcome(watched[-1], -watched[-1], used, tuple(watched), "total variation to the tilted reference", notes)


def graded_lists(
    method: Method, seed: int, rounds: int, length: int = 8, lists: int = 320, says: str = "label"
) -> Outcome:
    """64 contexts, 8 arms, a policy linear in 12 features of the context; the reward of an arm is half linear in them,
    half noise; labels are the rewards' ranks over 7. Recorded lists of `length` random arms, each the best first.

    value: expected label (says "label"), or Kendall's tau of log-probabilities with rewards ("order"); exact.
    """
    rng = stream(seed, "graded lists")
    contexts, arms = 64, 8
    features = torch.randn(contexts, 12, generator=rng)
    reward = features @ torch.randn(12, arms, generator=rng) / 12**0.5 + torch.randn(contexts, arms, generator=rng)
    label = reward.argsort(1).argsort(1) / (arms - 1)
    of = torch.arange(lists) % contexts
    picked = torch.rand(lists, arms, generator=rng).argsort(1)[:, :length]
    order = label[of].gather(1, picked).argsort(dim=1, descending=True)
    picked = picked.gather(1, order)
    inner = SequenceWorld(contexts, arms, 1, unpaid)
    world = RankedStrings(inner, picked[:, :, None], of, {"label": label[of].gather(1, picked)})

    def tau(table: Tensor) -> float:
        ahead = torch.sign(table[:, :, None] - table[:, None, :]) * torch.sign(label[:, :, None] - label[:, None, :])
        return float(ahead.sum((1, 2)).mean() / (arms * (arms - 1)))

    def worth(run: Run, done: Round) -> float:
        table = probabilities(run)
        return tau(table) if says == "order" else float((table * label).sum(1).mean())

    policy = Linear(features, torch.zeros(12, arms))
    done = fit(method, world, {"policy": policy}, rounds, seed, worth)
    now = done.table
    notes = {
        "expected label": float((now * label).sum(1).mean()),
        "label of the likeliest arm": float(label.gather(1, now.argmax(1, keepdim=True)).mean()),
        "Kendall's tau": tau(now),
    }
    name = "Kendall's tau" if says == "order" else "expected label"
    return done.outcome(name, notes)


def gold_reward(method: Method, seed: int, rounds: int) -> Outcome:
    """8 contexts, 50 answers with normal rewards; the policy begins as the supervised one, of normal logits.

    value: expected reward of the policy, exact.
    """
    rng = stream(seed, "gold reward")
    reward = torch.randn(8, 50, generator=rng)
    policy = Table(torch.randn(8, 50, generator=rng))
    first = policy.logits.detach().softmax(1)

    def worth(run: Run, done: Round) -> float:
        return float((probabilities(run) * reward).sum(1).mean())

    done = fit(method, bandit(reward), {"policy": policy}, rounds, seed, worth)
    change = (done.table * (done.table.log() - first.log())).sum(1).mean()
    notes = {
        "expected reward of the supervised policy": float((first * reward).sum(1).mean()),
        "KL to the supervised policy (nats)": float(change),
    }
    return done.outcome("expected reward", notes)


def nearly_tied(method: Method, seed: int, rounds: int, beta: float = 0.5) -> Outcome:
    """6 arms, preferences by Bradley-Terry; the two best are preferred to each other with probability 0.55 and 0.45.

    value: |beta (log-ratio of the best - that of the second) - logit(0.55)|, from a uniform policy; exact.
    """
    rng = stream(seed, "nearly tied")
    reward = 0.5 * torch.randn(1, 6, generator=rng)
    reward[0, 0] = reward[0, 1:].max() + 0.3
    tie = float(torch.logit(torch.tensor(0.55)))
    reward[0, 1] = reward[0, 0] - tie

    def compare(first: Tensor, second: Tensor, task: Tensor) -> Tensor:
        return torch.sigmoid(reward[task, first[:, 0]] - reward[task, second[:, 0]])

    world = SequenceWorld(1, 6, 1, lambda s, t: reward[t, s[:, 0].clamp(min=0)], compare=compare)

    def error(run: Run, done: Round) -> float:
        logp = probabilities(run)[0].clamp(min=1e-30).log()
        return abs(beta * float(logp[0] - logp[1]) - tie)

    done = fit(method, world, {"policy": uniform_table(1, 6)}, rounds, seed, error)
    best = (reward / beta).softmax(1)
    notes = {
        "total variation to pi_ref exp(r / beta) / Z": total_variation(done.table.double(), best.double()),
        "KL to the uniform policy (nats)": float((done.table * (6 * done.table).clamp(min=1e-30).log()).sum()),
    }
    return done.outcome("error of the tied margin", notes, score=-done.watched[-1])
