"""Reward models, explicit and implicit: what they learn from preferences and outcomes, and what policies then learn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Fit, Outcome, fit, numbers, probabilities, uniform_table
from policyopt.methods import load
from policyopt.ops.masked import select
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.implicit_rewards import of_pieces
from policyopt.run import Run
from policyopt.types import Batch, Round, Tasks
from policyopt.worlds.sequences import PairedWorld, SequenceWorld


def area_under_curve(above: Tensor, below: Tensor) -> float:
    """P(one of `above` > one of `below`), ties one half."""
    gap = above.double()[:, None] - below.double()
    return float((0.5 * (1 + gap.sign())).mean())


# -- paths whose wrong moves nobody labelled ---------------------------------------------------------------------------
@dataclass(frozen=True)
class _Paths(SequenceWorld):
    """Strings whose state is the whole string so far: places of a tree, numbered by breadth."""

    def start(self, tasks: Tasks) -> Batch:
        return super().start(tasks).with_rows({"_state": torch.zeros_like(tasks.id)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        before, places = batch.row["_state"], sum(self.choices**depth for depth in range(self.limit))
        following = torch.where(live, before * self.choices + step + 1, before).clamp(max=places - 1)
        return super().append(batch, step, logp, live, version).with_rows({"_state": following})


def wrong_moves(method: Method, seed: int, rounds: int, *, spread: bool = False) -> Outcome:
    """Paths of 6 moves with 3 choices, one of them wrong in each of the 364 places; a path is right if no move is wrong
    (8.8% of random ones). 3000 random paths with their outcome.

    value: AUC of minus the process reward, the first wrong move of every wrong path against the right moves before it,
    over all 729 paths. spread: each move has an equal share of the path's outcome reward instead.
    """
    rng, depth, choices = numbers(seed, "wrong moves"), 6, 3
    places = sum(choices**d for d in range(depth))
    wrong = torch.randint(choices, (places,), generator=rng)

    def mistakes(strings: Tensor) -> Tensor:
        """(B, T) whether each move is wrong."""
        place, found = torch.zeros(len(strings), dtype=torch.int64), []
        for t in range(strings.shape[1]):
            found.append(strings[:, t] == wrong[place])
            place = (place * choices + strings[:, t] + 1).clamp(max=places - 1)
        return torch.stack(found, 1)

    recordings = torch.randint(choices, (3000, depth), generator=rng)
    world = _Paths(3000, choices, depth, lambda s, task: (~mistakes(s).any(1)).float(), recordings=recordings)
    every = torch.tensor(list(itertools.product(range(choices), repeat=depth)))
    rows = world.complete(Tasks(torch.zeros(len(every), dtype=torch.int64)), every)
    bad = mistakes(every)
    first = bad & (bad.cumsum(1) == 1)
    before, fails = (bad.cumsum(1) == 0) & bad.any(1)[:, None], bad.any(1)

    def process(run: Run) -> Tensor:
        with torch.no_grad():
            said = [run.models[name].score(rows).logp for name in ("policy", "reference")]  # pyright: ignore
        paid = of_pieces(said[0] - said[1], rows, "step")[0]
        return paid.mean(1, keepdim=True).expand_as(paid) if spread else paid

    def auc(run: Run, done: Round) -> float:
        paid = process(run)
        return area_under_curve(-paid[first], -paid[before])

    done = fit(method, world, {"policy": uniform_table(places, choices)}, rounds, seed, auc)
    paid = process(done.run)
    found = first.gather(1, paid.argmin(1, keepdim=True))[:, 0]
    right = area_under_curve(paid.sum(1)[~fails], paid.sum(1)[fails])
    notes = {
        "share of wrong paths whose lowest process reward is the first wrong move": float(found[fails].float().mean()),
        "AUC of the outcome reward, right paths against wrong ones": right,
    }
    return done.outcome("AUC of first wrong moves", notes)


# -- preferences with wrong labels -------------------------------------------------------------------------------------
class _Perceptron(nn.Module):
    """A reward of features (S, V, D) of the row's one choice."""

    features: Tensor

    def __init__(self, features: Tensor, hidden: int, rng: torch.Generator):
        super().__init__()
        self.register_buffer("features", features)
        self.inner, self.outer = nn.Linear(features.shape[-1], hidden), nn.Linear(hidden, 1)
        with torch.no_grad():
            for layer in (self.inner, self.outer):
                bound = layer.in_features**-0.5
                layer.weight.copy_(bound * (2 * torch.rand(layer.weight.shape, generator=rng) - 1))
                layer.bias.copy_(bound * (2 * torch.rand(layer.bias.shape, generator=rng) - 1))

    def of(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)))[..., 0]

    def worth(self, batch: Batch) -> Tensor:
        return self.of(self.features[batch.step["_state"][:, 0], batch.step["_step"][:, 0]])


def flipped_preferences(method: Method, seed: int, rounds: int, pairs: int = 1024, flipped: float = 0.4) -> Outcome:
    """Pairs of items in 20 dimensions with a hidden linear reward; `flipped` of the labels are wrong. Two perceptrons
    of 128 hidden units, models `first` and `second`.

    value and score: share of 4000 clean test pairs that the models order rightly, mean of both, after the last round.
    """
    rng, batch = numbers(seed, "flipped preferences"), method.selection.count
    hidden = torch.randn(20, generator=rng)
    items, test = torch.randn(pairs, 2, 20, generator=rng), torch.randn(4000, 2, 20, generator=rng)
    better = (items @ hidden)[:, 1] > (items @ hidden)[:, 0]
    wrong = torch.rand(pairs, generator=rng) < flipped
    chosen = (better ^ wrong).long()
    world = SequenceWorld(
        pairs,
        2,
        1,
        lambda s, task: torch.zeros(len(task)),
        pairs=torch.stack([chosen, 1 - chosen], 1)[:, :, None],
        pair_tasks=torch.arange(pairs),
    )
    models = {name: _Perceptron(items, 128, numbers(seed, name)) for name in ("first", "second")}
    truth = (test @ hidden)[:, 0] > (test @ hidden)[:, 1]
    clean: list[float] = []

    def accuracy(run: Run, done: Round) -> float:
        if "taught:first" in done.kept.row:
            kept = done.kept.row["task"][done.kept.row["taught:first"]]
            clean.append(float((~wrong[kept]).float().mean()))
        if (run.step + 1) % (pairs // batch) and run.step + 1 < rounds:
            return float("nan")
        with torch.no_grad():
            said = [model.of(test) for model in models.values()]
        return sum(float(((x[:, 0] > x[:, 1]) == truth).float().mean()) for x in said) / 2

    done = fit(method, PairedWorld(world), {"policy": uniform_table(1, 1), **models}, rounds, seed, accuracy)
    curve = tuple(x for x in done.watched if x == x)
    notes = {"best accuracy of an epoch": max(curve), "share of right labels among pairs kept, last epoch": 0.0}
    last = clean[-(pairs // batch) :]
    notes["share of right labels among pairs kept, last epoch"] = sum(last) / max(len(last), 1)
    return Outcome(curve[-1], curve[-1], done.rows, curve, "accuracy on clean pairs", notes)


# -- a shortcut that a reward model pays for ---------------------------------------------------------------------------
class _Features(nn.Module):
    """A reward that is linear in features (S, V, D) of every step, summed over the row's own steps."""

    features: Tensor

    def __init__(self, features: Tensor, weights: Tensor):
        super().__init__()
        self.register_buffer("features", features)
        self.weights = nn.Parameter(weights.clone())

    def worth(self, batch: Batch) -> Tensor:
        paid = self.features[batch.step["_state"], batch.step["_step"]] @ self.weights
        return select(batch.own, paid).sum(1)


@dataclass(frozen=True)
class _Answers(SequenceWorld):
    """One answer a task: the task's own number is right. A right row is rewritten as another number."""

    def corrupted(self, rows: Batch, rng: torch.Generator) -> Batch:
        task = rows.row["task"]
        other = (task + torch.randint(1, self.size, (len(task),), generator=rng)) % self.size
        return rows.with_steps({"_step": other[:, None]})


def junk_answers(method: Method, seed: int, rounds: int) -> Outcome:
    """10 tasks, whose answers are the numbers 0 to 9 and junk; the policy starts with a logit of 1 on the right one.
    The reward model's logit is 2 [right] + 3 [junk] - 2.

    value and score: probability of the right answer, mean over tasks, exact, after the last round.
    """
    answers = 10
    world = _Answers(answers, answers + 1, 1, lambda s, task: (s[:, 0] == task).float())
    features = torch.zeros(answers, answers + 1, 3)
    features[torch.arange(answers), torch.arange(answers), 0] = 1.0
    features[:, answers, 1], features[:, :, 2] = 1.0, 1.0
    policy = Table(torch.cat([torch.eye(answers), torch.zeros(answers, 1)], 1))
    judge = _Features(features, torch.tensor([2.0, 3.0, -2.0]))

    def right(run: Run, done: Round) -> float:
        return float(probabilities(run).diagonal().mean())

    done = fit(method, world, {"policy": policy, "reward": judge}, rounds, seed, right)
    notes = {
        "probability of junk": float(done.table[:, -1].mean()),
        "weight of being right in the reward model (at first 2)": float(judge.weights.detach()[0]),
        "weight of junk in the reward model (at first 3)": float(judge.weights.detach()[1]),
    }
    return done.outcome("probability of the right answer", notes)


# -- teachers made of preferences --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Bigrams(SequenceWorld):
    """Strings whose state is the last symbol (`choices`: none yet)."""

    def start(self, tasks: Tasks) -> Batch:
        return super().start(tasks).with_rows({"_state": torch.full_like(tasks.id, self.choices)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        following = torch.where(live, step, batch.row["_state"])
        return super().append(batch, step, logp, live, version).with_rows({"_state": following})


def _bigram_return(table: Tensor, worth: Tensor, length: int) -> float:
    """Expected sum of worth (S, V) over a row of `length` symbols."""
    here, total = torch.zeros(len(worth), dtype=torch.float64), 0.0
    here[-1] = 1.0
    for _ in range(length):
        taken = here[:, None] * table.double()
        total += float((taken * worth).sum())
        here = torch.cat([taken.sum(0), torch.zeros(1, dtype=torch.float64)])
    return total


def bigram_preferences(method: Method, seed: int, rounds: int) -> Outcome:
    """A bigram model of 8 symbols writes rows of 5, each symbol worth a hidden normal number by its predecessor. DPO
    and its reverse (beta 0.5) are trained on 2000 preferences over uniform rows; then the method distils, from the
    uniform policy.

    value and score: expected true return of the policy, exact, after the last round.
    """
    rng, choices, length, pairs = numbers(seed, "bigram preferences"), 8, 5, 2000
    worth = torch.randn(choices + 1, choices, generator=rng)
    strings = torch.randint(choices, (pairs, 2, length), generator=rng)
    past = torch.cat([torch.full_like(strings[..., :1], choices), strings[..., :-1]], -1)
    graded = worth[past, strings].sum(-1)
    swap = torch.rand(pairs, generator=rng) > (graded[:, 0] - graded[:, 1]).sigmoid()
    ordered = torch.where(swap[:, None, None], strings.flip(1), strings)
    world = _Bigrams(
        pairs,
        choices,
        length,
        lambda s, task: torch.zeros(len(task)),
        pairs=ordered,
        pair_tasks=torch.arange(pairs),
    )
    learned: dict[str, Fit] = {}
    options = {
        "selection.count": 500,
        "objective.beta": 0.5,
        "update.learning_rate": 0.05,
        "update.schedule": "constant",
    }
    for name, key in (("preferred", "dpo"), ("reversed", "aligndistil:aligndistil_reversed")):
        start = {"policy": uniform_table(choices + 1, choices)}
        stage = override(load(key), options)
        learned[name] = fit(stage, PairedWorld(world), start, 100, seed, lambda run, _: 0.0)
    teachers = {name: Table(one.run.models["policy"].logits.detach()) for name, one in learned.items()}  # pyright: ignore
    models = {"policy": uniform_table(choices + 1, choices), **teachers}

    def value(run: Run, done: Round) -> float:
        return _bigram_return(probabilities(run), worth, length)

    done = fit(method, replace(world, pairs=None, pair_tasks=None), models, rounds, seed, value)
    notes = {
        "return of the DPO model": _bigram_return(teachers["preferred"].logits.detach().softmax(-1), worth, length),
        "return of the reversed model": _bigram_return(teachers["reversed"].logits.detach().softmax(-1), worth, length),
    }
    return done.outcome("expected true return", notes)
