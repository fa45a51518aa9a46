"""Episodes of turns and states that rows share: doors, clues, chains, thoughts under budgets, scratchpads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._anytime import KNOWN, Thoughts
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._staged import staged
from policyopt.evaluation.experiments._worlds import all_right, target_probability
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.types import Batch, Round, Tasks
from policyopt.worlds.oracles import expected_return
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tables import MOVES, TabularMDP


def key_door(size: int, horizon: int, seed: int) -> TabularMDP:
    """An empty square; begun at one corner, the key at another, the door at the third: reward 1 for reaching the door
    with the key. State: cell + size^2 if the key is held; the last state is the end."""
    cells = size * size
    key, door, end = size - 1, cells - 1, 2 * cells
    move = torch.zeros(end + 1, 4, end + 1, dtype=torch.float64)
    for state in range(end):
        held, cell = divmod(state, cells)
        for action, (down, right) in enumerate(MOVES):
            i, j = min(max(cell // size + down, 0), size - 1), min(max(cell % size + right, 0), size - 1)
            there = i * size + j
            holds = held or there == key
            move[state, action, end if holds and there == door else holds * cells + there] = 1.0
    move[end, :, end] = 1.0
    reward = torch.zeros_like(move)
    reward[:end, :, end] = 1.0
    ends = torch.arange(end + 1) == end
    begin = (torch.arange(end + 1) == (size - 1) * size).double()
    return TabularMDP(move, reward, begin, 1.0, horizon, ends, seed=seed)


def key_and_door(method: Method, seed: int, rounds: int) -> Outcome:
    """A 5 x 5 grid with a key and a door in three different corners; 60 moves at most, reward 1 for the door with the
    key, a table as policy.

    value: probability of success, exact, mean over rounds. score: the same.
    """
    world = key_door(5, 60, seed)

    def success(run: Run, done: Round) -> float:
        return expected_return(world, probabilities(run).double())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, success)
    mean = sum(done.watched) / len(done.watched)
    reached = next((n + 1 for n, s in enumerate(done.watched) if s >= 0.95), rounds)
    notes = {"success after training": done.watched[-1], "round at which success reached 0.95 (or the last)": reached}
    return done.outcome("probability of success", notes, value=mean)


def clue_chain(clues: int, horizon: int, seed: int) -> TabularMDP:
    """State k: k clues are found. At each state one of three searches finds the next clue, the other two find nothing,
    a fourth action wastes the turn, the fifth answers: right (reward 1) with all clues. The last state is the end."""
    end, rng = clues + 1, stream(seed, "clue chain")
    right = torch.randint(3, (clues,), generator=rng)
    move = torch.zeros(end + 1, 5, end + 1, dtype=torch.float64)
    for state in range(end):
        for action in range(4):
            found = state < clues and action == int(right[state])
            move[state, action, state + found] = 1.0
        move[state, 4, end] = 1.0
    move[end, :, end] = 1.0
    reward = torch.zeros_like(move)
    reward[clues, 4, end] = 1.0
    number = torch.arange(end + 1)
    return TabularMDP(move, reward, (number == 0).double(), 1.0, horizon, number == end, seed=seed)


def turns_of_success(world: TabularMDP, policy: Tensor) -> tuple[float, float]:
    """Probability that an episode ends with reward 1, and the expected number of turns of those that do."""
    assert world.horizon is not None
    here, success, turns = world.start_at[0], 0.0, 0.0
    for turn in range(world.horizon):
        visits = here[:, None] * policy
        gained = float((visits[..., None] * world.transition * world.reward).sum())
        success, turns = success + gained, turns + (turn + 1) * gained
        here = (visits[..., None] * world.transition).sum((0, 1)) * ~world.ends
    return success, turns / max(success, 1e-12)


def clues_in_turns(method: Method, seed: int, rounds: int) -> Outcome:
    """3 clues in a row, 12 turns at most; a turn can be wasted. Shortest: 4 turns. The agent's state is what it found,
    not how it got there.

    value: expected number of turns of successful episodes after training, exact. score: success less a twelfth of it.
    """
    world = clue_chain(3, 12, seed)
    success: list[float] = []

    def turns(run: Run, done: Round) -> float:
        found, length = turns_of_success(world, probabilities(run).double())
        success.append(found)
        return length

    done = fit(method, world, {"policy": uniform_table(world.states, 5)}, rounds, seed, turns)
    notes = {"success after training": success[-1]}
    score = success[-1] - done.watched[-1] / 12
    return done.outcome("turns of a successful episode", notes, score=score)


def tokens_until_success(
    method: Method,
    seed: int,
    rounds: int,
    limit: int = 21,
    decisive: int = 1,
    choices: int = 4,
    level: float = 0.9,
    *,
    updates: bool = False,
) -> Outcome:
    """One task, strings of `limit` of `choices` symbols, of which `decisive` symbols at random places (one in each
    equal part of the string) decide: reward 1 if they are right. A table knows the position only.

    value: steps generated (shared prefixes once, probes included) until the probability of success, exact, is at least
    `level`; those of the whole run if it never is. updates: rounds instead of steps. score: less a thousandth of the
    value.
    """
    rng = stream(seed, "tokens until success")
    part = limit // decisive
    place = torch.arange(decisive) * part + torch.randint(part, (decisive,), generator=rng)
    symbol = torch.randint(choices, (decisive,), generator=rng)
    world = SequenceWorld(1, choices, limit, lambda strings, task: (strings[:, place] == symbol).all(1).float())
    used: list[int] = []

    def success(run: Run, done: Round) -> float:
        used.append(run.engine.steps)  # pyright: ignore[reportAttributeAccessIssue]
        return float(probabilities(run)[place, symbol].prod())

    done = fit(method, world, {"policy": uniform_table(limit, choices)}, rounds, seed, success)
    first = next((n for n, chance in enumerate(done.watched) if chance >= level), rounds - 1)
    notes = {
        "success after training": done.watched[-1],
        "steps a round": used[-1] / rounds,
        "rounds until then": first + 1.0,
    }
    value = first + 1 if updates else used[first]
    return done.outcome("probability of success", notes, value=value, score=-value / 1000)


def thoughts_under_budgets(method: Method, seed: int, rounds: int) -> Outcome:
    """Thoughts of up to 8 steps; what to do at a step depends on what is known, and works every second time. Two bits
    must be revealed and named.

    value: probability of a right answer after 2, 4, 6 and 8 steps, mean, exact.
    """
    right = torch.randint(4, (KNOWN,), generator=stream(seed, "thoughts under budgets"))
    world = Thoughts(right, 8, 0.5, seed)

    def area(run: Run, done: Round) -> float:
        return float(world.accuracy(probabilities(run).double())[[2, 4, 6, 8]].mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, area)
    curve = world.accuracy(done.table.double())
    notes = {f"accuracy after {n} steps": float(curve[n]) for n in (2, 4, 6, 8)}
    return done.outcome("mean accuracy over budgets", notes)


@dataclass(frozen=True)
class RecordedChains(SequenceWorld):
    """Fixed answers (size, answers, limit) and who wrote them (size * limit, choices): `recorded` gives all answers of
    every task, with the log-probabilities of their author. Two judges of steps err in places of their own."""

    answers: Tensor | None = None
    author: Tensor | None = None
    mistakes: Tensor | None = None  # (2, size, answers, limit)

    def recorded(self, tasks: Tasks) -> Batch:
        assert self.answers is not None
        assert self.author is not None
        count = self.answers.shape[1]
        rows = self.complete(tasks.repeat(count), self.answers[tasks.id].flatten(0, 1))
        logp = self.author.log()[rows.step["_state"], rows.step["_step"]]
        number = torch.arange(count).repeat(len(tasks))
        return rows.with_steps({"behaviour": logp}).with_rows({"_number": number})

    def _judged(self, batch: Batch, judge: int) -> Tensor:
        assert self.mistakes is not None
        wrong = self.mistakes[judge, batch.row["task"], batch.row["_number"]]
        return (self.judge_steps_exactly(batch) != wrong).float()

    def judge_steps_exactly(self, batch: Batch) -> Tensor:
        return super().judge_steps(batch) > 0.5

    def judge_steps(self, batch: Batch) -> Tensor:
        return self._judged(batch, 0)

    def judge_again(self, batch: Batch) -> Tensor:
        return self._judged(batch, 1)


def recorded_chains(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks, chains of 6 of 4 symbols that are all right (reward 1) or not; 16 answers a task by an author who is
    right at a place six times in ten. The policy begins as the author.

    value: probability of success, mean over tasks, exact.
    """
    rng = stream(seed, "recorded chains")
    target = torch.randint(4, (8, 6), generator=rng)
    author = torch.full((48, 4), 0.4 / 3).scatter(1, target.reshape(-1, 1), 0.6)
    place = author.view(8, 1, 6, 4).expand(8, 16, 6, 4).reshape(-1, 4)
    answers = torch.multinomial(place, 1, generator=rng).view(8, 16, 6)
    mistakes = torch.rand(2, 8, 16, 6, generator=rng) < 0.1
    world = RecordedChains(
        8, 4, 6, all_right(target), judge=lambda strings, task: (strings == target[task]).float(),
        answers=answers, author=author, mistakes=mistakes,
    )  # fmt: skip

    def success(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).prod(1).mean())

    done = fit(method, world, {"policy": Table(author.log())}, rounds, seed, success)
    place_right = float(target_probability(done.table, target).mean())
    notes = {"probability of a right symbol": place_right}
    return done.outcome("probability of success", notes)


def scratchpads(method: Method, seed: int, rounds: int, passes: int = 20) -> Outcome:
    """4 tasks of 4 symbols of 4: two of scratch, the result that the scratch ends with, the answer. The reward is for
    the answer; a verifier checks that the answer is the result and that the scratch does not repeat one symbol. Two
    loops of `rounds` rounds of the method and `passes` updates of `veripo_dpo` at learning rate 0.1.

    value: probability that result and answer agree, exact, mean over tasks. score: probability of a right answer.
    """
    answer = torch.randint(4, (4,), generator=stream(seed, "scratchpads"))

    def checks(strings: Tensor, task: Tensor) -> Tensor:
        varied = (strings[:, 1:3] != strings[:, :1]).any(1)
        return torch.stack([strings[:, 2] == strings[:, 3], varied], 1).float()

    world = SequenceWorld(4, 4, 4, lambda strings, task: (strings[:, 3] == answer[task]).float(), checker=checks)
    second = override(load("veripo:veripo_dpo"), {"update.learning_rate": 0.1, "selection.count": 4})
    right: list[float] = []

    def consistent(run: Run) -> float:
        table = probabilities(run).view(4, 4, 4)
        right.append(float(table[torch.arange(4), 3, answer].mean()))
        return float((table[:, 2] * table[:, 3]).sum(1).mean())

    loop = (Stage(method, rounds), *((Stage(second, passes),) if passes else ()))
    done = staged(Program(loop * 2), world, {"policy": uniform_table(16, 4)}, seed, consistent)
    notes = {"probability of a right answer": right[-1]}
    return done.outcome("result agrees with answer", notes, score=right[-1])
