"""Markov decision processes written out as tables: worlds whose every quantity can be computed exactly
(`worlds.oracles`). For tables and linear policies, through the same loop as any other world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policyopt.ops.groups import places
from policyopt.ops.random import derive, uniforms
from policyopt.types import Batch, Categorical, Finish, Source, StepKind, Tasks, empty_batch


@dataclass(frozen=True)
class TabularMDP:
    """transition (S, A, S) probabilities; reward (S, A), or (S, A, S) if it depends on the state reached; start (S,),
    or (N, S) for N tasks, of the first state; terminal (S,) true where an episode ends. Float64.

    horizon: the most steps of a row (None: only terminal states end one). cut: a row that reaches the horizon is
    truncated (the world would go on, credit bootstraps); otherwise the horizon is an end like any other.
    Rows of one group share their first state. What happens is a function of (seed, group, place in the group).
    """

    transition: Tensor
    reward: Tensor
    start_at: Tensor
    gamma: float = 1.0
    horizon: int | None = None
    terminal: Tensor | None = None
    cut: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        states, actions = self.transition.shape[:2]
        starts = self.start_at if self.start_at.dim() == 2 else self.start_at[None]
        ends = torch.zeros(states, dtype=torch.bool) if self.terminal is None else self.terminal
        for name, value in (
            ("transition", self.transition.double()),
            ("reward", self.reward.double()),
            ("start_at", starts.double()),
            ("terminal", ends),
        ):
            object.__setattr__(self, name, value)
        if self.reward.shape not in ((states, actions), (states, actions, states)):
            raise ValueError(f"reward needs shape (S, A) or (S, A, S), not {tuple(self.reward.shape)}")
        for name, rows in (("transition", self.transition), ("start_at", self.start_at)):
            if rows.shape[-1] != states or bool((rows < 0).any()) or bool(((rows.sum(-1) - 1).abs() > 1e-9).any()):
                raise ValueError(f"{name} needs rows of {states} probabilities that sum to 1")
        if not 0 <= self.gamma <= 1 or (self.horizon is not None and self.horizon < 1):
            raise ValueError(f"need gamma in 0..1 and a horizon of 1 or more, got {self.gamma} and {self.horizon}")
        if self.horizon is None and not bool(ends.any()):
            raise ValueError("rows would never end: give a horizon or terminal states")

    # -- sizes ---------------------------------------------------------------------------------------------
    @property
    def size(self) -> int:
        return len(self.start_at)

    @property
    def states(self) -> int:
        return self.transition.shape[0]

    @property
    def actions(self) -> int:
        return self.transition.shape[1]

    @property
    def ends(self) -> Tensor:
        """(S,) true at terminal states."""
        assert self.terminal is not None
        return self.terminal

    @property
    def mean_reward(self) -> Tensor:
        """(S, A), over the states reached."""
        return self.reward if self.reward.dim() == 2 else (self.transition * self.reward).sum(-1)

    # -- the world -----------------------------------------------------------------------------------------
    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        none = torch.zeros(len(tasks), 0, dtype=torch.int64, device=tasks.id.device)
        batch = empty_batch(tasks, {"_state": none, "_step": none})
        group = batch.row["group"]
        chance = Categorical(self.start_at.to(group.device)[tasks.id].log())
        # One number a group, so that its rows begin alike; one stream a row, so that they then differ.
        first = chance.sample(uniforms(group + derive(self.seed, "start") % 2**40, 0, 1))
        return batch.with_rows({"_state": first, "_noise": self.noise(group, places(group))})

    def noise(self, group: Tensor, place: Tensor) -> Tensor:
        """(B,) the stream of the row at a place of its group."""
        return group * 1_000_003 + place + derive(self.seed, "moves") % 2**40

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        state, position = batch.row["_state"], batch.steps
        chance = Categorical(self.transition.to(state.device)[state, step].log())
        reached = torch.where(live, chance.sample(uniforms(batch.row["_noise"], position, 1)), state)
        return self.moved(batch, step, logp, live, reached, version)

    def moved(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, reached: Tensor, version: int = 0) -> Batch:
        """Live rows take a step and are then in the states `reached` (B,)."""
        added = batch.append(
            {
                "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8)[:, None],
                "train": live[:, None],
                "behaviour": torch.where(live, logp, 0.0)[:, None],
                "version": torch.full_like(step, version)[:, None],
                "turn": torch.full_like(step, batch.steps)[:, None],
                "_state": batch.row["_state"][:, None],
                "_step": torch.where(live, step, 0)[:, None],
            }
        )
        over = live & self.ends.to(live.device)[reached]
        late = live & ~over & (self.horizon is not None and batch.steps + 1 >= self.horizon)
        finish = torch.where(over, int(Finish.STOPPED), batch.row["finish"])
        finish = torch.where(late, int(Finish.TRUNCATED if self.cut else Finish.STOPPED), finish)
        return added.with_rows({"finish": finish, "_state": reached})

    def grade(self, batch: Batch) -> Tensor:
        """(B, T) the reward of every step."""
        return step_rewards(batch, self.reward)

    def state_keys(self, batch: Batch) -> Tensor:
        """(B, T) which state each step was taken in."""
        return batch.step["_state"]


def step_rewards(batch: Batch, reward: Tensor) -> Tensor:
    """(B, T) from a table (S, A) or (S, A, S); 0 at padding. A world's own rewards, or others (true ones, shaped
    ones) of the same steps."""
    table = reward.to(batch.device)
    found = table[batch.step["_state"], batch.step["_step"]]
    if reward.dim() == 3:
        found = found.gather(-1, batch.following("_state")[..., None])[..., 0]
    return torch.where(batch.own, found, 0.0).to(batch.step["reward"].dtype)


@dataclass(frozen=True)
class RecordedEpisodes:
    """Data of a table world: `size` episodes, each a function of its number, written by a policy of probabilities
    (S, A) or (H, S, A) by time. `recorded` gives episodes; `recorded_pairs` two of them that begin alike, the one of
    the larger return first (preferences without noise). Everything else is the world's own."""

    inner: TabularMDP
    author: Tensor
    size: int

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        return self.inner.start(replace(tasks, id=tasks.id % self.inner.size))

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        return self.inner.append(batch, step, logp, live, version)

    def grade(self, batch: Batch) -> Tensor:
        return self.inner.grade(batch)

    def write(self, ids: Tensor, copies: int = 1) -> Batch:
        """`copies` episodes side by side of every number: the same ones whenever they are asked for."""
        rows = ids.repeat_interleave(copies)
        batch = self.inner.start(Tasks(rows % self.inner.size, {"group": rows}))
        # By their place among the copies, not in the group: a number may be asked for twice.
        copy = torch.arange(copies, device=ids.device).repeat(len(ids))
        batch = batch.with_rows({"_noise": self.inner.noise(rows, copy)})
        keys = batch.row["_noise"] + derive(self.inner.seed, "author") % 2**40
        while not bool(batch.done.all()):
            table = self.author if self.author.dim() == 2 else self.author[batch.steps]
            chance = Categorical(table[batch.row["_state"]].log())
            step = chance.sample(uniforms(keys, batch.steps, 1))
            batch = self.append(batch, step, chance.log_prob(step), ~batch.done, 0)
        return batch.with_rows({"source": torch.full_like(rows, int(Source.DATASET))})

    def recorded(self, tasks: Tasks) -> Batch:
        return self.write(tasks.id).with_rows(tasks.row)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        both = tasks.repeat(2)
        batch = self.write(tasks.id, 2).with_rows(both.row)
        worth = self.grade(batch).sum(1).view(-1, 2)
        second = (worth[:, 1] > worth[:, 0]).long()
        rank = torch.stack([second, 1 - second], 1).flatten()
        return batch.with_rows({"pair": both.row["group"], "rank": rank})


# -- families --------------------------------------------------------------------------------------------------------
def chain(length: int, slip: float = 0.0, gamma: float = 1.0, horizon: int | None = None) -> TabularMDP:
    """States 0 ... length - 1, begun at 0; action 1 moves right, 0 left, each the other way with probability `slip`.
    Reward 1 for reaching the last state, which ends the episode."""
    move = torch.zeros(length, 2, length, dtype=torch.float64)
    for state in range(length):
        left, right = max(state - 1, 0), min(state + 1, length - 1)
        for action, (meant, other) in enumerate(((left, right), (right, left))):
            move[state, action, meant] += 1 - slip
            move[state, action, other] += slip
    last = torch.arange(length) == length - 1
    move[last] = last.double()
    reward = torch.zeros(length, 2, length, dtype=torch.float64)
    reward[~last, :, length - 1] = 1.0
    return TabularMDP(move, reward, (torch.arange(length) == 0).double(), gamma, horizon, last)


MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def gridworld(
    rows: Sequence[str],
    slip: float = 0.0,
    gamma: float = 1.0,
    horizon: int | None = None,
    worth: dict[str, float] | None = None,
) -> TabularMDP:
    """A map: "#" wall, "S" a first state (each as likely), "G" goal and "X" pit, which end the episode, anything else
    floor. Actions up, right, down, left; with probability `slip` the move is to a random side instead. worth: the
    reward for reaching a cell of that letter (default: goal 1, pit -1)."""
    worth = {"G": 1.0, "X": -1.0} if worth is None else worth
    cells = [(i, j) for i, row in enumerate(rows) for j, c in enumerate(row) if c != "#"]
    number = {cell: n for n, cell in enumerate(cells)}
    letters = [rows[i][j] for i, j in cells]
    reached = [[number.get((i + x, j + y), number[i, j]) for x, y in MOVES] for i, j in cells]
    ends = torch.tensor([letter in "GX" for letter in letters])
    move = torch.zeros(len(cells), 4, len(cells), dtype=torch.float64)
    for state, to in enumerate(reached):
        for action in range(4):
            move[state, action, to[action]] += 1 - slip
            for side in (1, 3):
                move[state, action, to[(action + side) % 4]] += slip / 2
    move[ends] = torch.eye(len(cells), dtype=torch.float64)[ends][:, None]
    value = torch.tensor([worth.get(letter, 0.0) for letter in letters], dtype=torch.float64)
    reward = value.expand(len(cells), 4, -1) * (~ends)[:, None, None]
    begin = torch.tensor([letter == "S" for letter in letters]).double()
    if not begin.any():
        raise ValueError('a gridworld needs a first state: write "S" in its map')
    return TabularMDP(move, reward, begin / begin.sum(), gamma, horizon, ends)


def garnet(
    states: int, actions: int, branching: int, rng: torch.Generator, gamma: float = 0.9, horizon: int | None = 20
) -> TabularMDP:
    """A random process (Archibald, McKinnon and Thomas 1995): every action leads to `branching` random states with
    random probabilities; rewards are standard normal, first states uniform. The horizon cuts, it does not end."""
    order = torch.rand(states, actions, states, generator=rng).argsort(-1)[..., :branching]
    share = torch.rand(states, actions, branching, generator=rng, dtype=torch.float64) + 1e-3
    move = torch.zeros(states, actions, states, dtype=torch.float64).scatter(2, order, share / share.sum(-1, True))
    reward = torch.randn(states, actions, generator=rng, dtype=torch.float64)
    return TabularMDP(move, reward, torch.full((states,), 1 / states, dtype=torch.float64), gamma, horizon, cut=True)


def contextual_bandit(rewards: Tensor) -> TabularMDP:
    """rewards (N, A) of a choice in a context; one context a task. State N is the end."""
    contexts, actions = rewards.shape
    move = torch.zeros(contexts + 1, actions, contexts + 1, dtype=torch.float64)
    move[..., contexts] = 1.0
    paid = torch.cat([rewards.double(), torch.zeros(1, actions, dtype=torch.float64)])
    begin = torch.eye(contexts, contexts + 1, dtype=torch.float64)
    return TabularMDP(move, paid, begin, 1.0, None, torch.arange(contexts + 1) == contexts)


def unrolled(mdp: TabularMDP) -> TabularMDP:
    """The same process with the time in its states (state t * S + s, the end last): a policy may then depend on the
    time, and oracles without a horizon are those of the horizon."""
    if mdp.horizon is None or mdp.cut:
        raise ValueError("only a process whose horizon is an end can be unrolled")
    size, horizon = mdp.states, mdp.horizon
    total = size * horizon + 1
    move = torch.zeros(total, mdp.actions, total, dtype=torch.float64)
    full = mdp.reward if mdp.reward.dim() == 3 else mdp.reward[..., None].expand_as(mdp.transition)
    reward = torch.zeros_like(move)
    for t in range(horizon):
        here, there = slice(t * size, (t + 1) * size), slice((t + 1) * size, (t + 2) * size)
        if t + 1 < horizon:
            move[here, :, there] = mdp.transition
            reward[here, :, there] = full
        else:
            move[here, :, -1] = 1.0
            reward[here, :, -1] = mdp.mean_reward
    ends = torch.cat([mdp.ends.repeat(horizon), torch.ones(1, dtype=torch.bool)])
    move[ends], reward[ends] = torch.eye(total, dtype=torch.float64)[ends][:, None], 0.0
    begin = torch.cat([mdp.start_at, torch.zeros(mdp.size, total - size, dtype=torch.float64)], 1)
    return TabularMDP(move, reward, begin, mdp.gamma, None, ends, seed=mdp.seed)
