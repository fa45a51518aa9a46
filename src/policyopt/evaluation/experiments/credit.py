"""Credit for single steps: turns of several steps, few steps that decide, rewards along the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Chain, Method, Part, Program, Stage, frozen
from policyopt.evaluation.experiments._common import (
    CountingEngine,
    Fit,
    Outcome,
    fit,
    probabilities,
    random_table,
    uniform_table,
)
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Automaton, Wrapped, strings_with_target
from policyopt.methods import load
from policyopt.ops.random import generator
from policyopt.ops.sequences import on_last, total_reward
from policyopt.options import override
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Finish, Round, Tasks
from policyopt.worlds.sequences import PairedWorld, SequenceWorld, bandit
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP


@dataclass(frozen=True)
class Turns(Wrapped):
    """A world of numbered states whose steps belong to turns: the turn of every state."""

    turn: Tensor  # (S,)

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = self.inner.append(batch, step, logp, live, version)
        return added.with_steps({"turn": self.turn[added.step["_state"]]})


def corridor(turns: int, short: int, long: int) -> tuple[TabularMDP, Tensor]:
    """A corridor of `turns` rooms, left by an action with two names: choice 0 begins the one of `short` tokens, choice
    1 that of `long`; all later tokens of a name are forced. Reward 1 for leaving the last room. Also the turn of every
    state; state room * (short + long - 1) is where a room's action begins."""
    width = short + long - 1
    last = turns * width
    move = torch.zeros(last + 1, 2, last + 1)
    move[last, :, last] = 1.0
    for room in range(turns):
        begin, onward = room * width, (room + 1) * width
        for choice, length, first in ((0, short, begin + 1), (1, long, begin + short)):
            path = [*range(first, first + length - 1), onward]
            move[begin, choice, path[0]] = 1.0
            for here, there in itertools.pairwise(path):
                move[here, :, there] = 1.0
    reward = torch.zeros(last + 1, 2, last + 1)
    reward[:last, :, last] = 1.0
    ends = torch.arange(last + 1) == last
    mdp = TabularMDP(move, reward, (torch.arange(last + 1) == 0).double(), terminal=ends)
    return mdp, torch.arange(last + 1) // width


def two_names_of_an_action(method: Method, seed: int, rounds: int) -> Outcome:
    """A corridor of three turns; in each, an action of 1 token and one of 6 do the same. Reward 1 at its end.

    value: |P(short name) - 1/2|, mean over turns, exact.
    """
    mdp, turn = corridor(3, 1, 6)
    world, first = Turns(mdp, turn), torch.arange(3) * 6

    def preference(run: Run, done: Round) -> float:
        return float((probabilities(run)[first, 0] - 0.5).abs().mean())

    done = fit(method, world, {"policy": uniform_table(mdp.states, 2)}, rounds, seed, preference)
    notes = {"probability of the short name, mean over turns": float(done.table[first, 0].mean())}
    score = -done.watched[-1]
    return Outcome(done.watched[-1], score, done.rows, done.watched, "|P(short name) - 1/2|", notes)


def decisive_turns(method: Method, seed: int, rounds: int, turns: int = 10, choices: int = 4) -> Outcome:
    """Ten turns of one choice of four; two of them decide: reward 1 if both are right.

    value: probability of success, mean over rounds, exact.
    """
    rng = stream(seed, "decisive turns")
    target = strings_with_target(1, choices, turns, rng)[0]
    decisive = torch.randperm(turns, generator=rng)[:2]

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return (strings[:, decisive] == target[decisive]).all(1).float()

    world = Turns(SequenceWorld(1, choices, turns, reward), torch.arange(turns))
    idle = torch.ones(turns, dtype=torch.bool)
    idle[decisive] = False
    first = torch.full((turns, choices), 1 / choices)
    moved: list[float] = []

    def success(run: Run, done: Round) -> float:
        nonlocal first
        table = probabilities(run)
        moved.append(float(((table - first)[idle] ** 2).sum()))
        first = table
        return float(table[decisive, target[decisive]].prod())

    done = fit(method, world, {"policy": uniform_table(turns, choices)}, rounds, seed, success)
    mean = sum(done.watched) / len(done.watched)
    notes = {
        "squared change of the idle turns' probabilities, sum over rounds": sum(moved),
        "probability of success after training": done.watched[-1],
    }
    return Outcome(mean, mean, done.rows, done.watched, "probability of success", notes)


def favourite_symbol(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 8 of 6 symbols from a reference with preferences of its own; reward = share of one symbol.

    value: -log of the reference's probability of a sampled symbol, nats, mean over positions and tasks, exact.
    """
    tasks, limit, choices = 4, 8, 6
    world = SequenceWorld(tasks, choices, limit, lambda strings, task: (strings == 0).double().mean(1).float())
    policy = random_table(world.states, choices, 1.0, seed, "policy")
    reference = policy.logits.detach().log_softmax(-1)
    shares: list[float] = []

    def surprise(run: Run, done: Round) -> float:
        table = probabilities(run)
        shares.append(float(table[:, 0].mean()))
        return float(-(table * reference).sum(1).mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, surprise)
    kl = float((done.table * (done.table.clamp(min=1e-30).log() - reference)).sum(1).mean())
    notes = {
        "the same of the reference's own symbols": float(-(reference.exp() * reference).sum(1).mean()),
        "KL to the reference per symbol": kl,
        "entropy per symbol": float(torch.special.entr(done.table).sum(1).mean()),
        "share of the rewarded symbol": shares[-1],
    }
    return Outcome(done.watched[-1], shares[-1], done.rows, done.watched, "-log reference, nats per symbol", notes)


def hidden_token_rewards(method: Method, seed: int, rounds: int, pairs: int = 500) -> Outcome:
    """One task, strings of 16 of 6 symbols; a string is worth the mean of hidden rewards of its symbols at their
    places. A model is trained by DPO on `pairs` preferences (Bradley-Terry, of sums) between strings of the reference,
    which is uniform; the method gets it as `preferred`.

    value: (J - J uniform) / (best J - J uniform), mean over rounds, exact.
    """
    tasks, limit, choices = 1, 16, 6
    rng = stream(seed, "hidden token rewards")
    hidden = torch.randn(tasks, limit, choices, generator=rng)

    def worth(strings: Tensor, task: Tensor) -> Tensor:
        return hidden[task].gather(2, strings.clamp(min=0)[:, :, None])[..., 0].mean(1)

    strings = torch.randint(choices, (pairs, 2, limit), generator=rng)
    asked = torch.arange(pairs) % tasks
    gap = limit * (worth(strings[:, 0], asked) - worth(strings[:, 1], asked))
    swap = torch.rand(pairs, generator=rng) > gap.sigmoid()
    strings[swap] = strings[swap].flip(1)
    world = SequenceWorld(tasks, choices, limit, worth, pairs=strings, pair_tasks=asked)
    dpo = override(load("dpo"), {"selection.count": 100, "update.learning_rate": 0.1, "update.warmup": 0})
    preferred = fit(
        dpo, PairedWorld(world), {"policy": uniform_table(world.states, choices)}, 30, seed, lambda run, done: 0.0
    ).run.models["policy"]
    table: Any = frozen(preferred)
    mean, best = hidden.mean(), hidden.amax(2).mean()

    def attained(run: Run, done: Round) -> float:
        return float(((probabilities(run).view_as(hidden) * hidden).sum(2).mean() - mean) / (best - mean))

    models = {"policy": uniform_table(world.states, choices), "preferred": table}
    done = fit(method, world, models, rounds, seed, attained)
    flat = torch.stack(
        [
            (table.logits - table.logits.mean(1, keepdim=True)).flatten(),
            (hidden - hidden.mean(2, keepdim=True)).flatten(),
        ]
    )
    notes = {
        "correlation of the DPO model's log-ratios with the hidden rewards": float(torch.corrcoef(flat)[0, 1]),
        "share of the attainable reward after training": done.watched[-1],
    }
    value = sum(done.watched) / len(done.watched)
    return Outcome(value, value, done.rows, done.watched, "share of the attainable reward", notes)


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
        return float(0.5 * (count / count.sum(1, keepdim=True) - wanted).abs().sum(1).mean())

    done = fit(method, bandit(torch.zeros(8, 8)), {"policy": policy}, rounds, seed, error)
    notes = {"after the first round": done.watched[0]}
    return Outcome(done.watched[-1], -done.watched[-1], done.rows, done.watched, "total variation", notes)


def forks_and_copies(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 8 of 6 symbols; reward 1 if all are right. One position is a fork, where 3 symbols are right
    and the policy prefers some; at the others one is, which it has with probability 0.8.

    value: entropy of the fork, nats, exact, at the first round with success of at least 0.9 (at the end if never).
    score: success after training.
    """
    tasks, limit, choices = 4, 8, 6
    rng = stream(seed, "forks and copies")
    right = torch.nn.functional.one_hot(strings_with_target(tasks, choices, limit, rng), choices).bool()
    fork = torch.randint(limit, (tasks,), generator=rng)
    right[torch.arange(tasks), fork] = torch.rand(tasks, choices, generator=rng).argsort(-1) < 3
    logits = torch.where(right, math.log(0.8), math.log(0.2 / (choices - 1)))
    logits[torch.arange(tasks), fork] = torch.randn(tasks, choices, generator=rng)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return right[task].gather(2, strings.clamp(min=0)[:, :, None])[..., 0].all(1).float()

    world = SequenceWorld(tasks, choices, limit, reward)
    success: list[float] = []
    copied: list[float] = []

    def uncertain(run: Run, done: Round) -> float:
        p = probabilities(run).view(tasks, limit, choices)
        success.append(float((p * right).sum(2).prod(1).mean()))
        entropy = torch.special.entr(p).sum(2)
        at_fork = entropy[torch.arange(tasks), fork]
        copied.append(float((entropy.sum(1) - at_fork).mean() / (limit - 1)))
        return float(at_fork.mean())

    done = fit(method, world, {"policy": Table(logits.view(-1, choices))}, rounds, seed, uncertain)
    reached = next((i for i, s in enumerate(success) if s >= 0.9), len(success) - 1)
    notes = {
        "round at which success reached 0.9 (or the last)": float(reached + 1),
        "success after training": success[-1],
        "entropy of the fork after training": done.watched[-1],
        "entropy of a copied symbol after training": copied[-1],
    }
    return Outcome(done.watched[reached], success[-1], done.rows, done.watched, "entropy of the fork (nats)", notes)


@dataclass(frozen=True)
class Written(Automaton):
    """An automaton of one task with recorded strings (M, limit), which are its tasks to draw."""

    recordings: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.int64))

    @property
    def size(self) -> int:
        return len(self.recordings)

    def start(self, tasks: Tasks) -> Batch:
        return super().start(replace(tasks, id=torch.zeros_like(tasks.id)))

    def recorded(self, tasks: Tasks) -> Batch:
        world: Any = self
        return SequenceWorld.complete(world, tasks, self.recordings[tasks.id])


def written(limit: int, choices: int, reward: Any, recordings: Tensor | None = None) -> Written:
    """Strings of a fixed length whose states are position * choices + the symbol before (0 at the beginning), those
    behind the last symbol included."""
    inner = SequenceWorld(1, choices, limit, reward)
    held = torch.zeros(1, limit, dtype=torch.int64) if recordings is None else recordings
    return Written(
        inner,
        (limit + 1) * choices,
        torch.zeros_like,
        lambda state, symbol: (state // choices + 1) * choices + symbol,
        held,
    )


@dataclass(frozen=True)
class Before:
    """What runs before the method: rounds of another that trains a model of its own, on as many tasks a round."""

    key: str = ""
    rounds: int = 0
    rate: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)

    def stages(self, method: Method, rounds: int) -> Program:
        if not self.key:
            return Program((Stage(method, rounds),))
        first = override(load(self.key), {"update.learning_rate": self.rate, **self.options})
        first = replace(first, selection=method.selection)
        if isinstance(first.sampling, Group):
            first = replace(first, sampling=method.sampling)
        return Program((Stage(first, self.rounds), Stage(method, rounds)))


def staged(program: Program, world: Any, models: dict[str, Any], seed: int, watch: Callable[[Run], float]) -> Fit:
    """`fit` of a program. Rows are those that were generated; recorded ones are not counted."""
    engine = CountingEngine()
    run = Run(models, world, engine, seed)
    watched = [watch(run) for _ in train_rounds(run, program)]
    return Fit(run, engine.rows, tuple(watched))


def one_decisive_step(method: Method, seed: int, rounds: int, first: str = "", warm: int = 0) -> Outcome:
    """Strings of 12 of 6 symbols; reward 1 if the symbol at one place is the right one. A method may be preceded by
    `warm` rounds of another, which trains a model of its own.

    value: probability of success, mean over rounds, exact.
    """
    limit, choices = 12, 6
    rng = stream(seed, "one decisive step")
    place, wanted = (int(torch.randint(n, (1,), generator=rng)) for n in (limit, choices))
    world = written(limit, choices, lambda strings, task: (strings[:, place] == wanted).float())

    def success(run: Run) -> float:
        table = probabilities(run).view(limit + 1, choices, choices)
        here = torch.nn.functional.one_hot(torch.tensor(0), choices).float()
        for position in range(place + 1):
            here = here @ table[position]
        return float(here[wanted])

    policy = uniform_table(world.states, choices)
    warm = min(warm, rounds)
    program = Before(first, warm).stages(method, rounds - warm)
    done = staged(program, world, {"policy": policy}, seed, success)
    notes = {"probability of success after training": done.watched[-1]}
    if "tokens" in done.run.models:
        model: Any = done.run.models["tokens"]
        said = torch.tanh(model.values.detach().view(limit + 1, choices) / 2).abs()[1:].mean(1)
        notes["weight of the decisive step over the mean weight"] = float(said[place] / said.mean().clamp(min=1e-9))
    value = sum(done.watched) / len(done.watched)
    return Outcome(value, value, done.rows, done.watched, "probability of success", notes)


def knowing(right: Tensor, reward: Any, recordings: Tensor | None = None, *, ever: bool = False) -> Written:
    """Strings in which the right symbol depends on place and symbol before, right (limit, choices). States know the
    place, the symbol before, and whether it was wrong (ever: whether any was): (place * choices + before) * 2 + wrong.
    """
    limit, choices = right.shape
    padded = torch.cat([right, right[:1]])

    def follow(state: Tensor, symbol: Tensor) -> Tensor:
        place, before, wrong = state // (2 * choices), state // 2 % choices, state % 2
        fails = (symbol != padded[place.clamp(max=limit), before]).long()
        return (place + 1) * 2 * choices + 2 * symbol + (wrong | fails if ever else fails)

    held = torch.zeros(1, limit, dtype=torch.int64) if recordings is None else recordings
    inner = SequenceWorld(1, choices, limit, reward)
    return Written(inner, (limit + 1) * choices * 2, torch.zeros_like, follow, held)


def hits(right: Tensor, strings: Tensor) -> Tensor:
    """(B, limit) whether each symbol is right after the one before (0 at first)."""
    before = torch.cat([torch.zeros_like(strings[:, :1]), strings[:, :-1]], 1)
    return right[torch.arange(len(right)), before] == strings


def chained_symbols(method: Method, seed: int, rounds: int, first: str = "", warm: int = 0) -> Outcome:
    """Strings of 10 of 4 symbols; 1/10 is paid for every symbol that is right, which one is depends on the place and
    the symbol before. There are 1000 recordings of a uniform policy for a method `first` that reads them.

    value: expected share of right symbols, mean over the method's own rounds, exact. Recorded rows are not counted.
    """
    limit, choices = 10, 4
    rng = stream(seed, "chained symbols")
    right = torch.randint(choices, (limit, choices), generator=rng)
    recordings = torch.randint(choices, (1000, limit), generator=rng)
    world = knowing(right, lambda strings, task: hits(right, strings).float() / limit, recordings)

    def share(run: Run) -> float:
        table = probabilities(run).view(limit + 1, choices, 2, choices)
        here, total = torch.zeros(choices, 2), 0.0  # of the symbol before and whether it was wrong
        here[0, 0] = 1.0
        for position in range(limit):
            chance = here[..., None] * table[position]  # (before, wrong, symbol)
            good = torch.nn.functional.one_hot(right[position], choices)[:, None].float() * chance
            total += float(good.sum()) / limit
            here = torch.stack([good.sum((0, 1)), (chance - good).sum((0, 1))], 1)
        return total

    policy = uniform_table(world.states, choices)
    program = Before(first, warm, 0.01, {"update.epochs": 12}).stages(method, rounds)
    done = staged(program, world, {"policy": policy}, seed, share)
    curve = done.watched[warm:]
    notes = {"expected share of right symbols after training": curve[-1]}
    value = sum(curve) / len(curve)
    return Outcome(value, value, done.rows, curve, "expected share of right symbols", notes)


def lines_of_a_program(method: Method, seed: int, rounds: int, warm: int = 8) -> Outcome:
    """Programs of 8 lines, each one of 4; reward 1 if every line is right, which one is depends on the line before,
    else -1. States know the place, the line before and whether all lines so far are right. The policy begins with
    probability 1/2 on the right ones. For `warm` rounds lines are labelled by completions of prefixes, and a process
    model learns the labels; then the method runs, which may use it.

    value: probability of a right program, mean over the method's own rounds, exact.
    """
    limit, choices = 8, 4
    rng = stream(seed, "lines of a program")
    right = torch.randint(choices, (limit, choices), generator=rng)
    inner = knowing(right, lambda strings, task: 2 * hits(right, strings).all(1).float() - 1, ever=True)
    world = Turns(inner, torch.arange(inner.states) // (2 * choices))
    logits = torch.zeros(limit + 1, choices, 2, choices)
    logits[:-1].scatter_(3, right[:, :, None, None].expand(-1, -1, 2, 1), math.log(3.0))

    def success(run: Run) -> float:
        table = probabilities(run).view(limit + 1, choices, 2, choices)
        chance, before = 1.0, 0
        for position in range(limit):
            chance *= float(table[position, before, 0, right[position, before]])
            before = int(right[position, before])
        return chance

    models = {"policy": Table(logits.view(-1, choices))}
    program = Before("prm_code_rl:prm_code_rl_labels", warm, 0.1, {"update.epochs": 5}).stages(method, rounds)
    done = staged(program, world, models, seed, success)
    curve = done.watched[warm:]
    half = next((float(i + 1) for i, chance in enumerate(curve) if chance >= 0.5), float(len(curve)))
    notes = {"probability of a right program after training": curve[-1], "rounds until it is 1/2 (or all)": half}
    value = sum(curve) / len(curve)
    return Outcome(value, value, done.rows, curve, "probability of a right program", notes)


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
    return Outcome(value, value, done.rows, done.watched, "expected true reward", notes)


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


def lock(code: Tensor) -> TabularMDP:
    """A combination lock of H steps of two choices: state h is open so far at step h, state H + h is not; the right
    choices code (H,) from first to last pay 1. State 2 H is the end."""
    steps = len(code)
    move = torch.zeros(2 * steps + 1, 2, 2 * steps + 1)
    move[-1, :, -1] = 1.0
    reward = torch.zeros(2 * steps + 1, 2)
    for h, right in enumerate(code.tolist()):
        onward, shut = (h + 1, steps + h + 1) if h + 1 < steps else (2 * steps, 2 * steps)
        move[h, right, onward] = 1.0
        move[h, 1 - right, shut] = 1.0
        move[steps + h, :, shut] = 1.0
    reward[steps - 1, code[-1]] = 1.0
    ends = torch.arange(2 * steps + 1) == 2 * steps
    return TabularMDP(move, reward, (torch.arange(2 * steps + 1) == 0).double(), terminal=ends)


def combination_lock(method: Method, seed: int, rounds: int, steps: int = 12) -> Outcome:
    """A combination lock of 12 steps of two choices, which a random policy opens once in 4096 episodes.

    value: probability of opening it after training, exact.
    """
    code = torch.randint(2, (steps,), generator=stream(seed, "combination lock"))
    mdp = lock(code)
    refits: list[float] = []

    def opens(run: Run, done: Round) -> float:
        refits.append(done.metrics.get("refits", 0.0))
        return float(probabilities(run)[torch.arange(steps), code].prod())

    done = fit(method, mdp, {"policy": uniform_table(mdp.states, 2)}, rounds, seed, opens)
    reached = next((i + 1 for i, chance in enumerate(done.watched) if chance >= 0.9), rounds)
    notes = {"episodes until the probability is 0.9 (or all)": float(reached), "fits of the critic": sum(refits)}
    return Outcome(done.watched[-1], done.watched[-1], done.rows, done.watched, "probability of opening", notes)


def off_the_path(method: Method, seed: int, rounds: int, first: str = "", warm: int = 0) -> Outcome:
    """Strings of 6 of 4 symbols; reward 1 if every symbol is right, which one is depends on the symbol before. The
    policy is linear in 32 random features of its states, which know the place, the symbol before and whether all are
    right so far; it begins near probability 2/5 on right symbols. There are recordings of the right string for a
    method `first` that reads them.

    value: probability of a right string, mean over the method's own rounds, exact. Recorded rows are not counted.
    """
    limit, choices = 6, 4
    rng = stream(seed, "off the path")
    right = torch.randint(choices, (limit, choices), generator=rng)
    path = [0]
    for position in range(limit):
        path.append(int(right[position, path[-1]]))
    recordings = torch.tensor(path[1:]).expand(64, -1)
    inner = knowing(right, lambda strings, task: hits(right, strings).all(1).float(), recordings, ever=True)
    features = torch.randn(inner.states, 32, generator=rng) / 32**0.5
    wanted = torch.zeros(limit + 1, choices, 2, choices)
    wanted[:-1].scatter_(3, right[:, :, None, None].expand(-1, -1, 2, 1), math.log(2.0))
    # The weights whose logits are nearest to the wanted ones.
    policy = Linear(features, torch.linalg.lstsq(features, wanted.view(-1, choices)).solution)

    def success(run: Run) -> float:
        table = policy.logits.detach().softmax(-1).view(limit + 1, choices, 2, choices)
        return math.prod(float(table[p, path[p], 0, path[p + 1]]) for p in range(limit))

    program = Before(first, warm, 0.003, {"update.epochs": 25}).stages(method, rounds)
    done = staged(program, inner, {"policy": policy}, seed, success)
    curve = done.watched[warm:]
    value = sum(curve) / len(curve)
    notes = {"probability of a right string after training": curve[-1]}
    return Outcome(value, value, done.rows, curve, "probability of a right string", notes)


def recorded_lock(method: Method, seed: int, rounds: int, steps: int = 14) -> Outcome:
    """A combination lock of 14 steps of two choices, and 200 recorded rows of an author that is right four times of
    five.

    value: probability of opening it after training, exact.
    """
    code = torch.randint(2, (steps,), generator=stream(seed, "recorded lock"))
    mdp = replace(lock(code), seed=seed)
    author = torch.full((mdp.states, 2), 0.5, dtype=torch.float64)
    author[torch.arange(steps), code] = 0.8
    author[torch.arange(steps), 1 - code] = 0.2

    def opens(run: Run, done: Round) -> float:
        return float(probabilities(run)[torch.arange(steps), code].prod())

    world = RecordedEpisodes(mdp, author, 200)
    done = fit(method, world, {"policy": uniform_table(mdp.states, 2)}, rounds, seed, opens)
    notes = {"probability that a recorded row opens it": 0.8**steps}
    return Outcome(done.watched[-1], done.watched[-1], done.rows, done.watched, "probability of opening", notes)
