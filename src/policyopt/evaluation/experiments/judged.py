"""Rewards that a model or a judge gives, and what they do to a policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, numbers, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._worlds import Automaton
from policyopt.ops.masked import masked_mean
from policyopt.run import Run
from policyopt.selection.ranked import explained, rank_weights
from policyopt.types import Batch, Categorical, Round, Scores, Tasks
from policyopt.worlds.sequences import SequenceWorld


def offset_scores(method: Method, seed: int, rounds: int, offset: float = 10.0) -> Outcome:
    """50 prompts, 5 answers of normal quality. A reward model scores an answer by its quality plus an offset of the
    prompt (standard deviation `offset`); of two answers it says who is better by the difference of the scores. The
    anchor of a prompt is a fixed random answer.

    value: how often the policy's answer beats a uniformly drawn one, by the true quality, mean over prompts, exact.
    """
    prompts, answers = 50, 5
    rng = numbers(seed, "offset scores")
    quality = torch.randn(prompts, answers, generator=rng)
    scores = quality + offset * torch.randn(prompts, 1, generator=rng)
    anchor = torch.randint(answers, (prompts, 1), generator=rng)
    world = SequenceWorld(
        prompts,
        answers,
        1,
        lambda s, t: scores[t, s[:, 0]],
        recordings=anchor,
        compare=lambda a, b, t: torch.sigmoid(scores[t, a[:, 0]] - scores[t, b[:, 0]]),
    )
    wins = torch.sigmoid(quality[:, :, None] - quality[:, None]).mean(2)

    def win_rate(run: Run, done: Round) -> float:
        return float((probabilities(run) * wins).sum(1).mean())

    done = fit(method, world, {"policy": uniform_table(prompts, answers)}, rounds, seed, win_rate)
    notes = {
        "mean quality": float((done.table * quality).sum(1).mean()),
        "best mean quality": float(quality.max(1).values.mean()),
    }
    last = done.watched[-1]
    return done.outcome("win rate over a uniform answer", notes, value=last)


@dataclass(frozen=True)
class BothOrders(SequenceWorld):
    """Comparisons in both orders: tasks 2 k and 2 k + 1 are the two forms of comparison k."""

    def forms(self, tasks: Tensor) -> Tensor:
        first = tasks // 2 * 2
        return torch.stack([first, first + 1], 1)


class LogisticJudge(nn.Module):
    """Says "the first" (0) with probability sigma(weight gap + bias), gap (tasks,) the first's lead in quality."""

    kind = "tabular"
    gap: Tensor

    def __init__(self, gap: Tensor, bias: float):
        super().__init__()
        self.register_buffer("gap", gap)
        self.parameters_ = nn.Parameter(torch.tensor([0.0, bias]))

    def first(self, task: Tensor) -> Tensor:
        """(B,) the log-odds of saying "the first"."""
        return self.parameters_[0] * self.gap[task] + self.parameters_[1]

    def next(self, batch: Batch) -> Categorical:
        odds = self.first(batch.row["task"])
        return Categorical.of(torch.stack([odds, torch.zeros_like(odds)], -1))

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        dist = Categorical(self.next(batch).logp[:, None].expand(-1, batch.steps, -1))
        return Scores(dist.log_prob(batch.step["_step"]), dist.entropy(), dist if full else None)


def judge_of_positions(method: Method, seed: int, rounds: int, bias: float = 6.0) -> Outcome:
    """64 pairs of answers of normal quality, each in both orders, and a judge that begins by naming the first in all of
    them, with log-odds of `bias`.

    value: share of rows with an advantage other than 0, mean over rounds.
    """
    quality = torch.randn(64, 2, generator=numbers(seed, "judge of positions"))
    lead = quality[:, 0] - quality[:, 1]
    gap = torch.stack([lead, -lead], 1).flatten()
    world = BothOrders(len(gap), 2, 1, lambda s, t: ((s[:, 0] == 0) == (gap[t] > 0)).float())
    judge = LogisticJudge(gap, bias)

    def moved(run: Run, done: Round) -> float:
        rows = done.credited
        return float((masked_mean(rows.step["advantage"], rows.own) != 0).double().mean())

    done = fit(method, world, {"policy": judge}, rounds, seed, moved)
    with torch.no_grad():
        says_first = torch.sigmoid(judge.first(torch.arange(len(gap))))
        right = torch.where(gap > 0, says_first, 1 - says_first).view(-1, 2)
    share = sum(done.watched) / len(done.watched)
    notes = {
        "weight of the difference in quality": float(judge.parameters_[0].detach()),
        "bias to the first": float(judge.parameters_[1].detach()),
        "accuracy": float(right.mean()),
        "consistent accuracy": float(right.prod(1).mean()),
    }
    return done.outcome("share of rows with an advantage", notes, value=share)


def noisy_middle(method: Method, seed: int, rounds: int, noise: float = 0.9, width: float = 1.2) -> Outcome:
    """32 prompts, 50 answers with true scores uniform in -2..2. The reward model errs by normal numbers of standard
    deviation noise exp(-(score / width)^2), fixed per answer: most in the middle of the scale.

    value: the policy's expected true score after training, mean over prompts, exact.
    """
    prompts, answers = 32, 50
    rng = numbers(seed, "noisy middle")
    score = 4 * torch.rand(prompts, answers, generator=rng) - 2
    error = noise * torch.exp(-((score / width) ** 2)) * torch.randn(prompts, answers, generator=rng)
    given = score + error
    world = SequenceWorld(prompts, answers, 1, lambda s, t: given[t, s[:, 0]])

    def true_score(run: Run, done: Round) -> float:
        return float((probabilities(run) * score).sum(1).mean())

    policy = random_table(prompts, answers, 0.5, seed, "policy")
    group = torch.arange(400).repeat_interleave(8)
    drawn = torch.randint(prompts * answers, (len(group),), generator=rng)
    known, reward = torch.ones(len(group), dtype=torch.bool), given.flatten()[drawn]
    notes = {
        f"R^2 of the rule {rule}": explained(reward, score.flatten()[drawn], rank_weights(reward, group, known, rule))
        for rule in ("all", "best", "best_worst", "best_random")
    }
    done = fit(method, world, {"policy": policy}, rounds, seed, true_score)
    table = done.table
    notes["reward of the model"] = float((table * given).sum(1).mean())
    notes["entropy (nats)"] = float(-(table * table.clamp(min=1e-12).log()).sum(1).mean())
    return done.outcome("true score", notes)


def demonstrated_lock(method: Method, seed: int, rounds: int, moves: int = 12, choices: int = 4) -> Outcome:
    """A lock of `moves` moves that opens, and pays 1, if every move is the key's. The demonstration is the key. A table
    knows the move's number and whether all moves so far were right.

    value: probability that the policy opens the lock, exact.
    """
    key = torch.randint(choices, (moves,), generator=numbers(seed, "combination lock"))
    inner = SequenceWorld(1, choices, moves, lambda s, t: (s == key).all(1).float(), recordings=key[None])

    def move(state: Tensor, symbol: Tensor) -> Tensor:
        number = state % moves
        right = (state < moves) & (symbol == key[number])
        return (number + 1).clamp(max=moves - 1) + torch.where(right, 0, moves)

    world = Lock(inner, 2 * moves, torch.zeros_like, move)

    def opens(run: Run, done: Round) -> float:
        return float(probabilities(run)[:moves].gather(1, key[:, None]).prod())

    done = fit(method, world, {"policy": uniform_table(2 * moves, choices)}, rounds, seed, opens)
    notes = {"chance of the first move": float(done.table[0, key[0]]), "by chance": float(choices) ** -moves}
    return done.outcome("probability of opening", notes)


@dataclass(frozen=True)
class Lock(Automaton):
    """An automaton with recorded strings."""

    def recorded(self, tasks: Tasks) -> Batch:
        assert self.inner.recordings is not None
        batch, strings = self.start(tasks), self.inner.recordings[tasks.id]
        for symbol in strings.T:
            nothing = torch.full((len(tasks),), float("nan"))
            batch = self.append(batch, symbol, nothing, ~batch.done, 0)
        return batch
