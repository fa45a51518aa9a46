"""Rewards that are sums of named grades, on small tasks of the shape of the papers that apply them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Wrapped, strings_with_target
from policyopt.ops.metrics import error_rate, jaccard, recall
from policyopt.ops.random import generator
from policyopt.run import Run
from policyopt.types import Batch, Round, StepKind, Tasks
from policyopt.worlds.sequences import SequenceWorld


def by_row(grade: Callable[[list[int], int], float]) -> Callable[[Tensor, Tensor], Tensor]:
    """A grade of one string and its task as one of many."""
    return lambda strings, task: torch.tensor(
        [grade(row, one) for row, one in zip(strings.tolist(), task.tolist(), strict=True)]
    )


# -- an optional behaviour ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Forced(Wrapped):
    """A world of strings whose first symbol is written for the policy where the row was told which."""

    instructions: tuple[str, ...] = ("construction",)

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        if batch.steps:
            return self.inner.append(batch, step, logp, live, version)
        asked = batch.row["construction"]
        forced = ~asked.isnan()
        symbol = torch.where(forced, asked.nan_to_num().long(), step)
        added = self.inner.append(batch, symbol, logp, live, version)
        kind = torch.where(forced[:, None], int(StepKind.HINT), added.step["kind"])
        train = added.step["train"] & ~forced[:, None]
        return added.with_steps({"kind": kind.to(added.step["kind"].dtype), "train": train})

    def grade_heads(self, batch: Batch) -> dict[str, Tensor]:
        return self.inner.grade_heads(batch)


def optional_construction(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks: first the policy says whether it constructs something, then it names one of 3 answers. The right answer
    counts with a chance of 0.8 with the construction and 0.3 without it on half of the tasks, of 0.4 and 0.7 on the
    others. By names: "accuracy", "format" (always 1), "behaviour" (constructed).

    value: probability of a right answer of a row that is told nothing, mean over tasks, exact.
    """
    answer = torch.randint(3, (8,), generator=stream(seed, "optional construction"))
    chance = torch.tensor([[0.3, 0.8]] * 4 + [[0.7, 0.4]] * 4)
    calls = 0

    def accuracy(strings: Tensor, task: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        lucky = torch.rand(len(strings), generator=generator(seed, "luck", calls))
        return ((strings[:, 1] == answer[task]) & (lucky < chance[task, (strings[:, 0] == 1).long()])).float()

    inner = SequenceWorld(
        8,
        3,
        2,
        accuracy,
        heads={
            "accuracy": accuracy,
            "format": lambda strings, task: torch.ones(len(strings)),
            "behaviour": lambda strings, task: (strings[:, 0] == 1).float(),
        },
    )
    uses: list[Tensor] = []

    def right(run: Run, done: Round) -> float:
        table = probabilities(run).view(8, 2, 3)
        use = table[:, 0, 1]
        uses.append(use)
        return float((table[torch.arange(8), 1, answer] * (use * chance[:, 1] + (1 - use) * chance[:, 0])).mean())

    done = fit(method, Forced(inner), {"policy": uniform_table(16, 3)}, rounds, seed, right)
    notes = {
        "share of constructions where they help": float(uses[-1][:4].mean()),
        "share of constructions where they harm": float(uses[-1][4:].mean()),
    }
    return done.outcome("probability of a right answer", notes)


# -- constraints -------------------------------------------------------------------------------------------------------
def many_constraints(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 8 of 6 symbols under 6 constraints: the first symbol, the last symbol, one that is forbidden,
    one that must come twice or more, one that must come exactly once, no two equal neighbours.

    value: share of the round's strings that keep all of them, mean over rounds.
    """
    rng = stream(seed, "many constraints")
    first, last, never, often, once = torch.stack([torch.randperm(6, generator=rng)[:5] for _ in range(4)]).T

    def kept(strings: Tensor, task: Tensor) -> Tensor:
        def count(symbol: Tensor) -> Tensor:
            return (strings == symbol[task][:, None]).sum(1)

        found = [strings[:, 0] == first[task], strings[:, 7] == last[task], count(never) == 0]
        found += [count(often) >= 2, count(once) == 1, (strings[:, 1:] != strings[:, :-1]).all(1)]
        return torch.stack(found, 1).float()

    world = SequenceWorld(4, 6, 8, lambda strings, task: kept(strings, task).prod(1), checker=kept)

    def share(run: Run, done: Round) -> float:
        return float(world.grade(done.judged).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 6)}, rounds, seed, share)
    mean = sum(done.watched) / rounds
    notes = {
        "share in the last 10 rounds": sum(done.watched[-10:]) / len(done.watched[-10:]),
        "entropy per symbol after training (nats)": float(torch.special.entr(done.table).sum(1).mean()),
    }
    return done.outcome("share that keeps all constraints", notes, value=mean)


# -- structure and content ---------------------------------------------------------------------------------------------
TAGS = (3, 4, 5, 6)  # begin and end of the steps, begin and end of the answer; 0 to 2 are digits


def between(row: list[int], begin: int, end: int) -> list[int]:
    """What stands between two tags, where both come once and in order; else nothing."""
    if row.count(begin) != 1 or row.count(end) != 1:
        return []
    return row[row.index(begin) + 1 : row.index(end)]


def tagged_answers(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks, strings of 7 of 7 symbols: [ steps ] ( answer ), where brackets are symbols. By names: "tags" (share of
    brackets that come once and in order, 0 if those that come once are out of order), "steps" (share of two digits that
    begin the steps rightly) and "whole" (the answer is one digit, the right one).

    value: share of strings with all brackets in order and the right answer, mean over the last 10 rounds.
    """
    target = torch.randint(3, (8, 3), generator=stream(seed, "tagged answers"))

    def tags(row: list[int], task: int) -> float:
        present = [tag for tag in TAGS if row.count(tag) == 1]
        return len(present) / 4 if [symbol for symbol in row if symbol in present] == present else 0.0

    def steps(row: list[int], task: int) -> float:
        said = between(row, *TAGS[:2])
        return sum(a == b for a, b in zip(said, target[task, :2].tolist(), strict=False)) / 2

    def whole(row: list[int], task: int) -> float:
        return float(between(row, *TAGS[2:]) == [int(target[task, 2])])

    heads = {"tags": by_row(tags), "steps": by_row(steps), "whole": by_row(whole)}
    world = SequenceWorld(8, 7, 7, heads["whole"], heads=heads)
    formed: list[float] = []

    def right(run: Run, done: Round) -> float:
        grades = world.grade_heads(done.judged)
        formed.append(float((grades["tags"] == 1).float().mean()))
        return float(((grades["tags"] == 1) & (grades["whole"] == 1)).float().mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 7)}, rounds, seed, right)
    value = sum(done.watched[-10:]) / len(done.watched[-10:])
    notes = {"share of strings with all brackets in order, last 10 rounds": sum(formed[-10:]) / len(formed[-10:])}
    return done.outcome("share of right and well formed strings", notes, value=value)


# -- frames ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Frames(Wrapped):
    """8 kinds of questions about 16 frames; task 4 k + c is kind k with content c. A row names two frames, then an
    answer. States of a kind: nothing named; one named, which is not salient, the first or the second salient one;
    two named, not both salient ones; both salient ones, and then the content that they show."""

    salient: Tensor  # (8, 2)

    def start(self, tasks: Tasks) -> Batch:
        return self.inner.start(tasks).with_rows({"_state": 9 * (tasks.id // 4)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        before, kind, content = batch.row["_state"], batch.row["task"] // 4, batch.row["task"] % 4
        added = self.inner.append(batch, step, logp, live, version)
        salient = self.salient[kind]
        if batch.steps == 0:
            after = 9 * kind + 1 + torch.where(step == salient[:, 0], 1, torch.where(step == salient[:, 1], 2, 0))
        else:
            wanted = torch.where(
                before == 9 * kind + 2, salient[:, 1], torch.where(before == 9 * kind + 3, salient[:, 0], -1)
            )
            after = torch.where(step == wanted, 9 * kind + 5 + content, 9 * kind + 4)
        states = torch.cat([batch.step["_state"], before[:, None]], 1)
        return added.with_steps({"_state": states}).with_rows({"_state": after})

    def grade_heads(self, batch: Batch) -> dict[str, Tensor]:
        return self.inner.grade_heads(batch)


def salient_frames(method: Method, seed: int, rounds: int) -> Outcome:
    """32 tasks: 8 kinds of questions with 4 contents each, 16 frames of which two show the content to a policy that has
    named both; then one of 4 answers. The first policy knows this format. By names: "accuracy", "format" (two
    different frames, then an answer), "frames" (overlap of the frames named with the salient ones).

    value: probability of a right answer, mean over tasks and rounds (the area under the learning curve), exact.
    """
    rng = stream(seed, "salient frames")
    salient = torch.stack([torch.randperm(16, generator=rng)[:2] for _ in range(8)])
    answer = torch.stack([16 + torch.randperm(4, generator=rng) for _ in range(8)])  # by kind and content

    def right(strings: Tensor, task: Tensor) -> Tensor:
        return (strings[:, 2] == answer[task // 4, task % 4]).float()

    def formatted(strings: Tensor, task: Tensor) -> Tensor:
        named = (strings[:, :2] < 16).all(1) & (strings[:, 0] != strings[:, 1])
        return (named & (strings[:, 2] >= 16)).float()

    frames = by_row(lambda row, task: jaccard({s for s in row[:2] if s < 16}, set(salient[task // 4].tolist())))
    heads = {"accuracy": right, "format": formatted, "frames": frames}
    inner = SequenceWorld(32, 20, 3, right, heads=heads)
    kinds, named = torch.arange(8), []

    def accuracy(run: Run, done: Round) -> float:
        table = probabilities(run).view(8, 9, 20)
        first, second = salient.T
        both = table[kinds, 0, first] * table[kinds, 2, second] + table[kinds, 0, second] * table[kinds, 3, first]
        told = table[:, 5:].gather(2, answer[..., None])[..., 0].mean(1)
        guessed = table[:, 4].gather(1, answer).mean(1)
        named.append(float(both.mean()))
        return float((both * told + (1 - both) * guessed).mean())

    start = uniform_table(72, 20)
    with torch.no_grad():  # the first policy knows the format
        form = start.logits.view(8, 9, 20)
        form[:, :4, 16:] = -4.0
        form[:, 4:, :16] = -4.0
    done = fit(method, Frames(inner, salient), {"policy": start}, rounds, seed, accuracy)
    mean = sum(done.watched) / rounds
    notes = {"probability that both salient frames are named": named[-1], "accuracy after training": done.watched[-1]}
    return done.outcome("probability of a right answer", notes, value=mean)


# -- two channels ------------------------------------------------------------------------------------------------------
def two_channels(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks: first the 4 words of a slide are read, then 6 words are written that were heard. 12 common words, 12
    rare ones; the slide shows 4 rare words of which 2 were spoken. The first policy hears common words well (logit 3)
    and takes rare ones for another rare word. By names: "format" (what is read are rare words), "slide" (1 - WER),
    "transcript" (1 - WER), "entities" (share of the slide's spoken words that are both read and written).

    value: probability of the right word at places of rare words, mean over tasks, places and rounds, exact.
    """
    rng = stream(seed, "two channels")
    spoken = strings_with_target(8, 12, 6, rng)
    slide = torch.stack([12 + torch.randperm(12, generator=rng)[:4] for _ in range(8)])
    places = torch.stack([torch.randperm(6, generator=rng)[:2] for _ in range(8)])
    spoken = spoken.scatter(1, places, slide[:, :2])
    heard = spoken.scatter(1, places, 12 + (slide[:, :2] - 12 + 1 + torch.randint(11, (8, 2), generator=rng)) % 12)

    def entities(row: list[int], task: int) -> float:
        shared = set(slide[task].tolist()) & set(spoken[task].tolist())
        return recall(set(row[:4]) & set(row[4:]), shared)

    heads = {
        "format": by_row(lambda row, task: float(min(row[:4]) >= 12)),
        "slide": by_row(lambda row, task: max(0.0, 1 - error_rate(row[:4], slide[task].tolist()))),
        "transcript": by_row(lambda row, task: max(0.0, 1 - error_rate(row[4:], spoken[task].tolist()))),
        "entities": by_row(entities),
    }
    world = SequenceWorld(8, 24, 10, heads["transcript"], heads=heads)
    start = random_table(world.states, 24, 0.1, seed, "policy")
    with torch.no_grad():
        hearing = start.logits.view(8, 10, 24)
        hearing[:, 4:] += 3.0 * torch.nn.functional.one_hot(heard, 24)
    every = torch.arange(8)[:, None]
    unspoken: list[float] = []

    def rare(run: Run, done: Round) -> float:
        table = probabilities(run).view(8, 10, 24)
        unspoken.append(float(table[:, 4:].gather(2, slide[:, None, 2:].expand(8, 6, 2)).sum((1, 2)).mean()))
        return float(table[every, 4 + places, spoken.gather(1, places)].mean())

    done = fit(method, world, {"policy": start}, rounds, seed, rare)
    mean = sum(done.watched) / rounds
    notes = {
        "probability of the right rare word after training": done.watched[-1],
        "slide words written that were not spoken, a string": unspoken[-1],
    }
    return done.outcome("probability of the right rare word", notes, value=mean)
