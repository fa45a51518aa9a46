"""Preferences between pieces of episodes: segments, controllers, turns of a dialogue, branches of a tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import (
    CountingEngine,
    Outcome,
    fit,
    probabilities,
    uniform_table,
)
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Automaton, Wrapped
from policyopt.methods import load
from policyopt.ops.random import uniforms
from policyopt.options import override
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Categorical, Finish, Gaussian, Round, Scores, Source, StepKind, Tasks, empty_batch
from policyopt.worlds.oracles import expected_return, soft_optimum
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tables import gridworld, places


@dataclass(frozen=True)
class Segments:
    """Recorded pieces of episodes, the better first: states and steps (M, K, T), and row columns (M, K)."""

    states: Tensor
    steps: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, str] = ("_state", "_step")
    copies: bool = False  # `recorded` gives the better one as often as there are rows in a list

    @property
    def size(self) -> int:
        return len(self.states)

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def _rows(self, tasks: Tasks, states: Tensor, steps: Tensor) -> Batch:
        """states, steps: (N, T, ...)."""
        begun, (state, step) = empty_batch(tasks), self.names
        own = torch.ones(states.shape[:2], dtype=torch.bool)
        known = {
            "kind": torch.full(own.shape, int(StepKind.OWN), dtype=torch.uint8),
            "train": own,
            "behaviour": torch.full(own.shape, torch.nan, dtype=torch.get_default_dtype()),
            "reward": torch.zeros(own.shape, dtype=torch.get_default_dtype()),
            **{name: torch.zeros(own.shape, dtype=torch.int64) for name in ("turn", "version")},
        }
        row = {
            **begun.row,
            state: states[:, -1],
            "source": torch.full_like(tasks.id, int(Source.DATASET)),
            "finish": torch.full_like(tasks.id, int(Finish.TRUNCATED)),
        }
        return Batch(row, {**known, state: states, step: steps})

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        length = self.states.shape[1]
        rows = self._rows(tasks.repeat(length), *(x[tasks.id].flatten(0, 1) for x in (self.states, self.steps)))
        given = {name: column[tasks.id].flatten() for name, column in self.columns.items()}
        pair = torch.arange(len(tasks)).repeat_interleave(length)
        return rows.with_rows({"pair": pair, "rank": torch.arange(length).repeat(len(tasks)), **given})

    def recorded(self, tasks: Tasks) -> Batch:
        length = self.states.shape[1]
        every = tasks.repeat(length)
        if self.copies:
            return self._rows(every, self.states[every.id, 0], self.steps[every.id, 0])
        return self._rows(every, *(x[tasks.id].flatten(0, 1) for x in (self.states, self.steps)))


def segments_by_regret(method: Method, seed: int, rounds: int, alpha: float = 0.1) -> Outcome:
    """A gridworld of 5 x 5 with a goal and two pits; 4,000 pairs of segments of 8 steps that begin anywhere, written by
    a uniform policy, labelled by regret: Bradley-Terry on sums of maximum-entropy advantages / alpha.

    value: (return - that of the uniform policy) / (the optimum's - that), discounted by 0.9, exact.
    """
    rng = stream(seed, "segments by regret")
    mdp = gridworld(("S....", ".#.X.", ".....", ".X.#.", "....G"), gamma=0.9, worth={"G": 10.0, "X": -10.0})
    prior = torch.full((mdp.states, mdp.actions), 1 / mdp.actions, dtype=torch.float64)
    best = soft_optimum(mdp, alpha, prior)[1]
    advantage = alpha * best.clamp(min=1e-30).log()
    going = (~mdp.ends).nonzero()[:, 0]
    state = going[torch.randint(len(going), (8_000,), generator=rng)]
    states, steps = [], []
    for _ in range(8):
        step = torch.randint(mdp.actions, state.shape, generator=rng)
        states.append(state)
        steps.append(step)
        # An episode that ended begins again anywhere, so that every step has a choice.
        state = mdp.transition[state, step].argmax(1)
        state = torch.where(mdp.ends[state], going[torch.randint(len(going), state.shape, generator=rng)], state)
    path, taken = torch.stack(states, 1), torch.stack(steps, 1)
    worth = advantage[path, taken].sum(1).view(-1, 2)
    first = torch.rand(len(worth), generator=rng).double() < (worth[:, 0] - worth[:, 1]).sigmoid()
    order = torch.where(first[:, None], torch.tensor([0, 1]), torch.tensor([1, 0]))[:, :, None].expand(-1, -1, 8)
    world = Segments(path.view(-1, 2, 8).gather(1, order), taken.view(-1, 2, 8).gather(1, order), copies=True)
    low, high = expected_return(mdp, prior), expected_return(mdp, best)

    def share(run: Run, done: Round) -> float:
        return (expected_return(mdp, probabilities(run).double()) - low) / (high - low)

    done = fit(method, world, {"policy": uniform_table(mdp.states, mdp.actions)}, rounds, seed, share)
    gap = (done.table.double().clamp(min=1e-12).log() - prior.log()) * done.table
    notes = {"KL to the uniform policy per state (nats)": float(gap[going].sum(1).mean())}
    return done.outcome("share of the attainable return", notes)


class LinearActor(nn.Module):
    """A deterministic policy a = gain * s of one number."""

    kind = "control"

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))

    def at(self, batch: Batch, *, following: bool = False) -> Gaussian:
        state = batch.following("_obs") if following else batch.step["_obs"]
        mean = self.gain * state
        return Gaussian(mean, torch.zeros_like(mean) + 0.5)

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_action"]

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        dist = self.at(batch)
        return Scores(dist.log_prob(self.taken(batch)), dist.entropy())


@dataclass(frozen=True)
class _GradedSegments(Segments):
    """Segments of one row each, graded."""

    worth: Tensor = field(default_factory=lambda: torch.zeros(0))

    def recorded(self, tasks: Tasks) -> Batch:
        return super().recorded(tasks.with_rows({"_window": tasks.id}))

    def grade(self, batch: Batch) -> Tensor:
        return self.worth[batch.row["_window"]]


def two_controllers(method: Method, seed: int, rounds: int, noise: float = 0.1) -> Outcome:
    """s <- s + a / 2 + noise from |s| of about 1, cost s^2 + a^2 / 10; 1,000 recorded windows of 20 steps, 30% of a
    good controller (a = -s), 70% of a bad one (a = s / 5), with noise. Windows are graded by their return. The policy
    is a gain, 0 at first.

    value: (gain - the bad one's) / (the good one's - the bad one's), exact.
    """
    rng = stream(seed, "two controllers")
    good, bad = -1.0, 0.2
    gain = torch.where(torch.rand(1_000, generator=rng) < 0.3, good, bad)
    state, states, actions, paid = torch.randn(1_000, generator=rng), [], [], torch.zeros(1_000)
    for _ in range(20):
        action = gain * state + noise * torch.randn(1_000, generator=rng)
        states.append(state)
        actions.append(action)
        paid = paid - state**2 - 0.1 * action**2
        state = state + 0.5 * action + 0.05 * torch.randn(1_000, generator=rng)
    path, taken = (torch.stack(x, 1)[:, None, :, None] for x in (states, actions))
    world = _GradedSegments(path, taken, names=("_obs", "_action"), worth=paid)

    def place(run: Run, done: Round) -> float:
        policy: Any = run.models["policy"]
        return (float(policy.gain.detach()) - bad) / (good - bad)

    done = fit(method, world, {"policy": LinearActor()}, rounds, seed, place)
    return done.outcome("place between bad (0) and good (1)")


@dataclass(frozen=True)
class Dialogue(Wrapped):
    """A world of turns of one symbol each, whose user answers at random: states turn * moods + mood."""

    chance: Tensor  # (moods, symbols, moods)

    def start(self, tasks: Tasks) -> Batch:
        batch = self.inner.start(tasks)
        noise = batch.row["group"] * 1_000_003 + places(batch.row["group"])
        return batch.with_rows({"_state": torch.zeros_like(tasks.id), "_noise": noise})

    def rewind(self, batch: Batch, steps: Tensor) -> Batch:
        """What the user says from there is drawn anew, for every row by itself."""
        noise = batch.row["_noise"] * 31 + torch.arange(len(batch)) + 7
        return batch.rewound(steps).with_rows({"_noise": noise})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        position, moods = batch.valid.sum(1), len(self.chance)
        mood = batch.row["_state"] % moods
        # One number for each row and position, so that rows of different lengths may stand side by side.
        level = uniforms(batch.row["_noise"] * 13 + position, 0, 1)
        reached = Categorical(self.chance[mood, step].log()).sample(level)
        added = self.inner.append(batch, step, logp, live, version)
        after = (position + 1).clamp(max=self.inner.limit - 1) * moods + reached
        number = added.valid.cumsum(1) - 1
        turn = torch.where(added.valid, number, 0).to(added.step["turn"].dtype)
        state = torch.where(live, after, batch.row["_state"])
        return added.with_rows({"_state": state}).with_steps({"turn": turn})

    def grade(self, batch: Batch) -> Tensor:
        mood = batch.step["_state"].gather(1, batch.lengths[:, None] - 1)[:, 0] % len(self.chance)
        said = batch.step["_step"].gather(1, batch.lengths[:, None] - 1)[:, 0]
        return self.inner.reward(torch.stack([mood, said], 1), batch.row["task"])


def three_turns(method: Method, seed: int, rounds: int, *, fixed: bool = False, moods: int = 4) -> Outcome:
    """Three turns of 4 symbols; a symbol moves the user from one of 4 moods to another, to a random one in one of five
    turns. The last symbol pays 1 if it fits the mood and the mood is the good one, 0.2 if it fits another.
    fixed: turns before the fork are written by the first policy.

    value: expected return / that of the best policy, exact.
    """
    rng = stream(seed, "three turns")
    target = torch.rand(moods, 4, generator=rng).argsort(1)
    chance = 0.2 / moods + 0.8 * torch.nn.functional.one_hot(target, moods).float()
    fits, good = torch.randint(4, (moods,), generator=rng), int(torch.randint(moods, (), generator=rng))
    worth = torch.where(torch.arange(moods) == good, 1.0, 0.2)
    pays = torch.nn.functional.one_hot(fits, 4) * worth[:, None]
    inner = SequenceWorld(10_000, 4, 3, lambda pair, task: pays[pair[:, 0], pair[:, 1]])

    def value(table: Tensor | None) -> float:
        """From mood 0; None: the best policy."""
        after = torch.zeros(moods)
        for turn in (2, 1, 0):
            q = pays if turn == 2 else chance @ after
            after = q.max(1).values if table is None else (table[turn * moods : (turn + 1) * moods] * q).sum(1)
        return float(after[0])

    def share(run: Run, done: Round) -> float:
        return value(probabilities(run)) / value(None)

    policy = uniform_table(3 * moods, 4)
    made = override(method, {"sampling.by": "first"}) if fixed else method
    models = {"policy": policy, "first": uniform_table(3 * moods, 4)}
    done = fit(made, Dialogue(inner, chance), models, rounds, seed, share)
    notes = {"the uniform policy's share": value(uniform_table(3 * moods, 4).logits.detach().softmax(1)) / value(None)}
    return done.outcome("share of the best return", notes)


@dataclass(frozen=True)
class Tree(Automaton):
    """Every symbol is a turn; states are the inner nodes of a tree, numbered level by level."""

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = super().append(batch, step, logp, live, version)
        return added.with_steps({"turn": torch.where(added.valid, added.valid.cumsum(1) - 1, 0)})


def tree_of_steps(
    method: Method, seed: int, rounds: int, first: str = "", warm: int = 0, depth: int = 6, level: float = 1.0
) -> Outcome:
    """A tree of depth 6 with 3 branches; 15% of the leaves are right. The reference is uniform. first, warm: a stage
    before (of a critic) and its rounds.

    value: probability of a right leaf where KL(policy || reference) passes `level` nats (at the end, if it never does),
    linear between rounds; exact.
    """
    rng = stream(seed, "tree of steps")
    leaves, inner_nodes = 3**depth, (3**depth - 1) // 2
    right = torch.rand(leaves, generator=rng).argsort() < 0.15 * leaves
    power = 3 ** torch.arange(depth - 1, -1, -1)
    inner = SequenceWorld(1_000, 3, depth, lambda s, task: right[(s * power).sum(1)].float())

    def follow(state: Tensor, symbol: Tensor) -> Tensor:
        return (3 * state + 1 + symbol).clamp(max=inner_nodes - 1)

    world = Tree(inner, inner_nodes, lambda task: torch.zeros_like(task), follow)

    def measured(table: Tensor) -> tuple[float, float]:
        """Probability of a right leaf and KL to the uniform policy."""
        reach, kl, begun = torch.ones(1, dtype=torch.float64), 0.0, 0
        for step in range(depth):
            here = table[begun : begun + 3**step].double()
            kl += float((reach[:, None] * here * (3 * here).clamp(min=1e-30).log()).sum())
            reach, begun = (reach[:, None] * here).flatten(), begun + 3**step
        return float(reach[right].sum()), kl

    engine = CountingEngine()
    run = Run({"policy": uniform_table(inner_nodes, 3)}, world, engine, seed)
    settings = {"update.learning_rate": 0.3, "update.clip_norm": None, "selection.count": 128, "credit.count": 16}
    stages = (Stage(override(load(first), settings), warm),) if first else ()
    curve, before = [measured(probabilities(run))], 0
    for number, _ in enumerate(train_rounds(run, Program((*stages, Stage(method, rounds))))):
        if number < warm:
            before = engine.rows
            continue
        curve.append(measured(probabilities(run)))
    value = curve[-1][0]
    for (low, near), (high, far) in pairwise(curve):
        if near < level <= far:
            value = low + (high - low) * (level - near) / (far - near)
            break
    notes = {"probability at the end": curve[-1][0], "KL at the end (nats)": curve[-1][1], "at first": curve[0][0]}
    watched = tuple(share for share, _ in curve[1:])
    return Outcome(value, value, engine.rows - before, watched, "probability of a right leaf", notes)
