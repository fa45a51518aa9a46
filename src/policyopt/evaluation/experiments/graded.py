"""Rewards that say more than right or wrong: noise, judged steps, checks, counts, sums of named grades."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import (
    Automaton,
    all_right,
    share_right,
    strings_with_target,
    target_probability,
)
from policyopt.ops.metrics import relative_error
from policyopt.ops.random import generator, new_keys
from policyopt.ops.sequences import total_reward
from policyopt.policies.linear import Linear
from policyopt.reward.loops import repeated_tail
from policyopt.run import Run
from policyopt.types import Finish, Round
from policyopt.worlds.sequences import SequenceWorld, bandit


def flat_groups(done: Round) -> float:
    """The share of groups whose rewards are all alike."""
    reward, group = total_reward(done.judged), done.judged.row["group"]
    spread = [float(reward[group == one].max() - reward[group == one].min()) for one in group.unique()]
    return sum(s <= 1e-9 for s in spread) / len(spread)


def right_or_wrong_choice(method: Method, seed: int, rounds: int) -> Outcome:
    """16 tasks of one choice among 32, reward 0 or 1, by a linear softmax policy whose tasks share parameters: their
    features are unit vectors that overlap (each plus a random one of length 0.5).

    value: probability of the right choice, mean over tasks and rounds (the area under the learning curve), exact.
    """
    rng = stream(seed, "right or wrong choice")
    target = torch.randint(32, (16,), generator=rng)
    features = torch.eye(16) + 0.5 * torch.nn.functional.normalize(torch.randn(16, 16, generator=rng), dim=1)
    world = bandit(torch.nn.functional.one_hot(target, 32).float())
    flat: list[float] = []

    def success(run: Run, done: Round) -> float:
        flat.append(flat_groups(done))
        return float(probabilities(run)[torch.arange(16), target].mean())

    done = fit(method, world, {"policy": Linear(features, torch.zeros(16, 32))}, rounds, seed, success)
    mean = sum(done.watched) / rounds
    notes = {
        "share of groups without spread of rewards": sum(flat) / rounds,
        "probability of the right choice after training": done.watched[-1],
    }
    return done.outcome("probability of the right choice", notes, value=mean)


def unlearnable_half(method: Method, seed: int, rounds: int) -> Outcome:
    """16 tasks of one choice among 8, reward 0 or 1; the right choice of half of them is drawn anew every round.

    value: share of the squared norm of the policy gradient (of the advantages as used) that comes from that half,
    summed over all rounds. score: probability of the right choice on the other half, exact.
    """
    fixed = torch.randint(8, (16,), generator=stream(seed, "unlearnable half"))
    calls = 0

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        drawn = torch.randint(8, (16,), generator=generator(seed, "drawn anew", calls))
        target = torch.where(torch.arange(16) < 8, fixed, drawn)
        return (strings[:, 0] == target[task]).float()

    world = SequenceWorld(16, 8, 1, reward, answer=lambda strings, task: strings[:, 0])
    before = torch.full((16, 8), 1 / 8)
    factors: list[float] = []
    sums = torch.zeros(2)

    def share(run: Run, done: Round) -> float:
        nonlocal before, sums
        rows = done.credited
        task, taken, advantage = rows.row["task"], rows.step["_step"][:, 0], rows.step["advantage"][:, 0]
        slope = torch.nn.functional.one_hot(taken, 8) - before[task]
        norms = torch.zeros(16, 8).index_add(0, task, advantage[:, None] * slope).pow(2).sum(1)
        before = probabilities(run)
        factors.append(done.metrics.get("certainty_factor", 1.0))
        sums = sums + torch.stack([norms[8:].sum(), norms.sum()])
        return float(sums[0] / sums[1])

    done = fit(method, world, {"policy": uniform_table(16, 8)}, rounds, seed, share)
    success = float(done.table[torch.arange(8), fixed[:8]].mean())
    notes = {"probability of the right choice, learnable half": success, "mean factor": sum(factors) / rounds}
    return done.outcome("share of the gradient so far", notes, score=success)


def judged_chain(method: Method, seed: int, rounds: int, noise: float = 0.0, choices: int = 4) -> Outcome:
    """8 tasks, strings of 6 of `choices` symbols, reward 1 only if all are right. A judge says of every symbol whether
    it is right, and errs on a share `noise` of them (each symbol at its place always in the same way).

    value: probability of a right string after training, mean over tasks, exact.
    """
    rng = stream(seed, "judged chain")
    target = strings_with_target(8, choices, 6, rng)
    errs = torch.rand(8, 6, choices, generator=rng) < noise

    def judge(strings: Tensor, task: Tensor) -> Tensor:
        symbol = strings.clamp(min=0)
        wrong = errs[task].gather(2, symbol[..., None])[..., 0]
        return ((symbol == target[task]) ^ wrong).float()

    world = SequenceWorld(8, choices, 6, all_right(target), judge=judge)
    flat: list[float] = []

    def success(run: Run, done: Round) -> float:
        flat.append(flat_groups(done))
        return float(target_probability(probabilities(run), target).prod(1).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, choices)}, rounds, seed, success)
    notes = {"share of groups without spread of rewards in the first round": flat[0]}
    return done.outcome("probability of a right string", notes)


# -- key steps ---------------------------------------------------------------------------------------------------------
def _all_kinds(kinds: Tensor) -> Tensor:
    """(tasks, places, J + 1) probabilities of J kinds and of none at every place -> (tasks,) that every kind comes."""
    tasks, _, count = kinds.shape
    seen = torch.zeros(tasks, 1 << (count - 1), dtype=kinds.dtype)
    seen[:, 0] = 1.0
    for place in kinds.unbind(1):
        after = seen * place[:, -1:]
        for j in range(count - 1):
            target = torch.arange(seen.shape[1]) | (1 << j)
            after = after.index_add(1, target, seen * place[:, j : j + 1])
        seen = after
    return seen[:, -1]


def keyed_derivation(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks, strings of 5 of 12 symbols: 8 symbols are steps, in 4 kinds of 2 (the wordings of 4 key steps), 4 are
    answers. A string is right if all key steps come before its end and its last symbol is the right answer; it is valid
    if its last symbol is an answer and no other is. By names: "accuracy" and "validity"; checks: the 4 key steps.

    value: probability of a right string, mean over tasks and rounds (the area under the learning curve), exact.
    """
    rng = stream(seed, "keyed derivation")
    kind = torch.stack([torch.randperm(8, generator=rng) // 2 for _ in range(8)])  # (tasks, step symbols)
    kind = torch.cat([kind, torch.full((8, 4), 4)], 1)  # answers are of no kind
    answer = 8 + torch.randint(4, (8,), generator=rng)

    def key_steps(strings: Tensor, task: Tensor) -> Tensor:
        found = kind[task].gather(1, strings.clamp(min=0))[:, :4]
        return torch.stack([(found == j).any(1) for j in range(4)], 1).float()

    def right(strings: Tensor, task: Tensor) -> Tensor:
        return key_steps(strings, task).prod(1) * (strings[:, 4] == answer[task])

    def valid(strings: Tensor, task: Tensor) -> Tensor:
        return ((strings[:, :4] < 8).all(1) & (strings[:, 4] >= 8)).float()

    world = SequenceWorld(8, 12, 5, right, checker=key_steps, heads={"accuracy": right, "validity": valid})
    flat: list[float] = []

    def success(run: Run, done: Round) -> float:
        flat.append(flat_groups(done))
        table = probabilities(run).view(8, 5, 12)
        kinds = torch.zeros(8, 4, 5).index_add(2, torch.tensor([4]), table[:, :4, 8:].sum(2, keepdim=True))
        kinds = kinds.scatter_add(2, kind[:, None, :8].expand(8, 4, 8), table[:, :4, :8])
        return float((_all_kinds(kinds) * table[torch.arange(8), 4, answer]).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 12)}, rounds, seed, success)
    mean = sum(done.watched) / rounds
    notes = {
        "share of groups without spread of rewards in the first 10 rounds": sum(flat[:10]) / len(flat[:10]),
        "probability of a right string after training": done.watched[-1],
    }
    return done.outcome("probability of a right string", notes, value=mean)


# -- counts ------------------------------------------------------------------------------------------------------------
def noisy_counts(method: Method, seed: int, rounds: int) -> Outcome:
    """64 tasks: a number from 20 to 200 is seen with 10 % of noise, and one of 0 to 200 or no number is said, by a
    policy that is linear in bumps around 24 places. By names: "error" (relative) and "format" (a number was said); the
    plain reward is 1 for the exact number, and 1 for the format.

    value: mean absolute error of what is said (no number: the whole count), mean over tasks, exact. score: less it.
    """
    rng = stream(seed, "noisy counts")
    count = torch.randint(20, 201, (64,), generator=rng)
    seen = count * (1 + 0.1 * torch.randn(64, generator=rng))
    features = torch.exp(-0.5 * ((seen[:, None] - torch.linspace(10, 230, 24)) / 10) ** 2)

    def said(strings: Tensor, task: Tensor) -> Tensor:
        return torch.where(strings[:, 0] <= 200, strings[:, 0].float(), float("nan"))

    def formatted(strings: Tensor, task: Tensor) -> Tensor:
        return (strings[:, 0] <= 200).float()

    world = SequenceWorld(
        64,
        202,
        1,
        lambda strings, task: (strings[:, 0] == count[task]).float() + formatted(strings, task),
        heads={
            "error": lambda strings, task: relative_error(said(strings, task), count[task].float()),
            "format": formatted,
        },
    )
    miss = torch.cat([(torch.arange(201) - count[:, None]).abs(), count[:, None]], 1).float()

    def error(run: Run, done: Round) -> float:
        return float((probabilities(run) * miss).sum(1).mean())

    done = fit(method, world, {"policy": Linear(features, torch.zeros(24, 202))}, rounds, seed, error)
    notes = {"mean absolute error of what is seen": float((seen - count).abs().mean())}
    return done.outcome("mean absolute error", notes, score=-done.watched[-1])


# -- chains that the policy ends ---------------------------------------------------------------------------------------
def fading_steps(method: Method, seed: int, rounds: int, needed: int = 4, fall: float = 0.1) -> Outcome:
    """One task: a chain of at most 20 steps, and the policy says when it ends. Step j is right with probability
    0.98 e^(-fall j), which is what the judge says of it. A chain succeeds if it has at least `needed` steps and all of
    them are right.

    value: probability of success after training, exact.
    """
    quality = 0.98 * torch.exp(-fall * torch.arange(1, 21.0))

    def judge(strings: Tensor, task: Tensor) -> Tensor:
        return torch.where(strings == 0, quality[: strings.shape[1]], float("nan"))

    world = SequenceWorld(1, 2, 20, lambda strings, task: torch.zeros(len(strings)), end=1, judge=judge)
    counts = torch.arange(21.0)
    lengths: list[float] = []

    def success(run: Run, done: Round) -> float:
        on = probabilities(run)[:, 0]
        reached = torch.cat([torch.ones(1), on.cumprod(0)])  # P(at least n steps)
        exactly = reached * torch.cat([1 - on, torch.ones(1)])
        lengths.append(float((counts * exactly).sum()))
        worth = torch.cat([torch.ones(1), quality.cumprod(0)]) * (counts >= needed)
        return float((exactly * worth).sum())

    done = fit(method, world, {"policy": uniform_table(20, 2)}, rounds, seed, success)
    notes = {"expected number of steps after training": lengths[-1]}
    return done.outcome("probability of success", notes)


def looping_rows(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks, rows of at most 16 of 4 symbols, of which the last ends the row; a policy that knows the task and the
    symbol before. It begins by repeating one symbol (different by task) with probability 0.9. Half of the tasks are
    right if the row ends and its first symbol is the target; nothing is ever right on the others.

    value: share of rows that reach the limit with a repeating end after training, of 64 attempts a task.
    score: share of right rows on the tasks that can be solved, of the same attempts.
    """
    rng = stream(seed, "looping rows")
    target, stuck = torch.randint(3, (8,), generator=rng), torch.randint(3, (8,), generator=rng)

    def right(strings: Tensor, task: Tensor) -> Tensor:
        return ((strings == 3).any(1) & (strings[:, 0] == target[task]) & (task < 4)).float()

    inner = SequenceWorld(8, 4, 16, right, end=3)
    world = Automaton(inner, 32, lambda task: 4 * task + 3, lambda state, symbol: 4 * (state // 4) + symbol)
    start = uniform_table(32, 4)
    with torch.no_grad():
        start.logits[4 * torch.arange(8) + stuck, stuck] = 3.3  # 0.9 among four
        start.logits[4 * torch.arange(8) + 3, 3] = -20.0  # no empty row

    def looping(policy: Any, name: str) -> tuple[float, float]:
        """Shares of looping rows, and of right rows on the tasks that can be solved, of fresh attempts."""
        asked = world.start(world.tasks(torch.arange(8).repeat_interleave(64)))
        keys = new_keys(len(asked), generator(seed, "looping rows", name))
        rows = generate(policy, world, asked, keys, 1.0, 0)
        strings, cut = inner.strings(rows), rows.row["finish"] == Finish.TRUNCATED
        tails = [repeated_tail(row) > 0 for row in strings[cut].tolist()]
        return sum(tails) / len(rows), float(right(strings, rows.row["task"])[rows.row["task"] < 4].mean())

    def entropy(run: Run, done: Round) -> float:
        return float(torch.special.entr(probabilities(run)).sum(1).mean())

    with torch.no_grad():
        first, _ = looping(start, "first")
    done = fit(method, world, {"policy": start}, rounds, seed, entropy)
    with torch.no_grad():
        value, score = looping(done.run.models["policy"], "last")
    notes = {"share of looping rows before training": first, "share of right rows, tasks that can be solved": score}
    return done.outcome("entropy per symbol (nats)", notes, value=value, score=score)


# -- what an update costs ----------------------------------------------------------------------------------------------
def work_to_a_level(method: Method, seed: int, rounds: int, unit: str = "rows", level: float = 0.85) -> Outcome:
    """8 tasks, strings of 6 of 4 symbols, reward = share of right symbols.

    value: rows (or steps) that were trained on, each epoch counted, until the expected share of right symbols is at
    least `level`; all of them if it never is. score: the share after training, exact.
    """
    target = strings_with_target(8, 4, 6, stream(seed, "work to a level"))
    world = SequenceWorld(8, 4, 6, share_right(target))
    epochs = getattr(method.update, "epochs", 1)
    work: list[float] = []

    def share(run: Run, done: Round) -> float:
        trained = done.kept.trained
        count = int(trained.sum()) if unit == "steps" else int(trained.any(1).sum())
        work.append((work[-1] if work else 0.0) + epochs * count)
        return float(target_probability(probabilities(run), target).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, share)
    reached = next((n for n, right in enumerate(done.watched) if right >= level), rounds - 1)
    notes = {"rounds to the level": float(reached + 1), "share after training": done.watched[-1]}
    value = work[reached]
    return done.outcome("expected share of right symbols", notes, value=value, score=done.watched[-1])
