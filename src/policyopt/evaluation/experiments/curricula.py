"""What is asked, how often, and what is remembered of it: pools of known difficulty, locks, rare answers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._told import HintedStrings, PatternedStrings, ToldStrings, told_strings
from policyopt.evaluation.experiments._worlds import all_right, share_right, strings_with_target, target_probability
from policyopt.evaluation.experiments.gradients import GRADIENTS, KeepGradient
from policyopt.ops.groups import informative
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Round
from policyopt.worlds.sequences import SequenceWorld


# -- pools of tasks of known difficulty ------------------------------------------------------------------------------
def _pool(logits: Tensor, solvable: Tensor) -> tuple[SequenceWorld, Table]:
    """One step of two symbols; the second is right where a task is solvable. The policy begins with logits (N,)."""

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return ((strings[:, 0] == 1) & solvable[task]).float()

    return SequenceWorld(len(logits), 2, 1, reward), Table(torch.stack([torch.zeros_like(logits), logits], 1))


def share_informative(batch: Batch) -> float:
    """Share of groups that have both outcomes."""
    first = {int(group): row for row, group in enumerate(batch.row["group"])}
    differ = informative(total_reward(batch), batch.row["group"], batch.row["scored"])
    return float(differ[list(first.values())].float().mean())


def pool_of_difficulties(method: Method, seed: int, rounds: int, kind: str = "normal") -> Outcome:
    """Tasks of one step with a right symbol; their chances of it at the start are spread. kind "normal": 400 tasks,
    logits of deviation 3. "mixed": 200 tasks, half nearly solved (0.99), 30% without a right symbol, 20% at 0.2 to 0.5.

    value: share of groups with both outcomes, mean over the last 30 rounds. score: chance of the right symbol after
    training, mean over the tasks that have one and were not nearly solved.
    """
    rng = stream(seed, "pool of difficulties")
    if kind == "normal":
        logits, solvable = 3 * torch.randn(400, generator=rng), torch.ones(400, dtype=torch.bool)
        open_ = solvable
    else:
        place = torch.arange(200)
        middle = 0.2 + 0.3 * torch.rand(200, generator=rng)
        logits = torch.where(place < 100, torch.full((200,), 0.99), middle).logit()
        solvable, open_ = (place < 100) | (place >= 160), place >= 160
    world, policy = _pool(logits, solvable)
    solved: list[float] = []

    def watch(run: Run, done: Round) -> float:
        solved.append(float(probabilities(run)[open_, 1].mean()))
        return share_informative(done.judged)

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    last = done.watched[-30:]
    notes = {
        "chance of the right symbol of open tasks, start": float(logits.sigmoid()[open_].mean()),
        "chance of the right symbol of open tasks, end": solved[-1],
    }
    label = "share of groups with both outcomes"
    return done.outcome(label, notes, value=sum(last) / len(last), score=solved[-1])


def medium_tasks(method: Method, seed: int, rounds: int) -> Outcome:
    """`pool_of_difficulties` of kind "mixed".

    value: chance of the right symbol after training, mean over the tasks that are neither nearly solved nor unsolvable.
    """
    found = pool_of_difficulties(method, seed, rounds, "mixed")
    notes = {"share of groups with both outcomes, last 30 rounds": found.value, **found.notes}
    return Outcome(found.score, found.score, found.rows, found.curve, found.curve_label, notes)


# -- how often tasks are asked ---------------------------------------------------------------------------------------
def updates_to_success(method: Method, seed: int, rounds: int, level: float = 0.9) -> Outcome:
    """100 tasks of one step whose chances of the right symbol at the start are uniform in 0.02 ... 0.98.

    value: updates until the mean chance reaches `level` (one more than there were if it never does).
    """
    chance = 0.02 + 0.96 * torch.rand(100, generator=stream(seed, "updates to success"))
    world, policy = _pool(chance.logit(), torch.ones(100, dtype=torch.bool))
    mixed: list[float] = []

    def watch(run: Run, done: Round) -> float:
        mixed.append(share_informative(done.judged))
        return float(probabilities(run)[:, 1].mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    reached = next((i + 1 for i, p in enumerate(done.watched) if p >= level), rounds + 1)
    notes = {
        "share of groups with both outcomes, first 20 rounds": sum(mixed[:20]) / 20,
        "rows generated an update": done.rows / rounds,
        "chance of the right symbol after training": done.watched[-1],
    }
    label = "chance of the right symbol"
    return done.outcome(label, notes, value=float(reached), score=done.watched[-1])


def accepted_gradients(method: Method, seed: int, rounds: int) -> Outcome:
    """40 tasks of one step of 16 symbols, half of them right; chances that a row is right from 0.05 to 0.95. Tasks that
    are solved surely are solved in fewer ways. The policy stays fixed.

    value: ln of the mean squared error of the gradient of accepted rows' mean log-likelihood, against its exact value.
    """
    rng = stream(seed, "accepted gradients")
    right = torch.rand(40, 16, generator=rng).argsort(1) < 8
    wanted = torch.linspace(0.05, 0.95, 40)
    logits = (0.5 + 4 * wanted[:, None]) * torch.randn(40, 16, generator=rng)
    share = (logits.exp() * right).sum(1) / (logits.exp() * ~right).sum(1)
    logits = logits + torch.where(right, (wanted / (1 - wanted) / share).log()[:, None], 0.0)
    world = SequenceWorld(40, 16, 1, lambda strings, task: right[task, strings[:, 0]].float())
    still = replace(method, update=KeepGradient({"policy": None}))
    done = fit(still, world, {"policy": Table(logits)}, rounds, seed, lambda run, _: 0.0)
    kept = torch.stack(done.run.cells[GRADIENTS.name]).double()
    p = logits.double().softmax(1)
    accepted = p * right / (p * right).sum(1, keepdim=True)
    exact = (accepted - p) / 40
    error = (kept - exact).square().sum((1, 2)).mean()
    spread = kept.var(0).sum()
    notes = {"variance of the gradient": float(spread), "mean squared error of the gradient": float(error)}
    return Outcome(float(error.log()), 0.0, done.rows, notes=notes)


def hinted_lock(method: Method, seed: int, rounds: int, level: float = 0.8, length: int = 12) -> Outcome:
    """4 combination locks of 12 of 3 symbols, reward 1 for the whole combination; hints are its beginning.

    value: rows generated until the chance of opening a lock without hint, mean over locks, reaches `level`; all that
    were generated if it never does (then at least rounds * 32).
    """
    solution = strings_with_target(4, 3, length, stream(seed, "hinted lock"))
    world = HintedStrings(SequenceWorld(4, 3, length, all_right(solution)), solution)
    policy, engine = uniform_table(4 * length, 3), CountingEngine()
    run = Run({"policy": policy}, world, engine, seed)
    curve: list[float] = []
    mixed: list[float] = []
    for done in train_rounds(run, Program((Stage(method, rounds),))):
        curve.append(float(target_probability(probabilities(run), solution).prod(1).mean()))
        mixed.append(share_informative(done.judged))
        if curve[-1] >= level or engine.rows >= rounds * 32:
            break
    notes = {
        "chance of opening a lock without hint, end": curve[-1],
        "updates": float(len(curve)),
        "share of groups with both outcomes, first 50 updates": sum(mixed[:50]) / len(mixed[:50]),
    }
    reached = 100
    padded = [curve[min(len(curve) - 1, i * len(curve) // reached)] for i in range(reached)]
    label = "chance of opening a lock without hint, by hundredths of the run"
    return Outcome(float(engine.rows), curve[-1], engine.rows, tuple(padded), label, notes)


def refined_digits(method: Method, seed: int, rounds: int) -> Outcome:
    """16 tasks, answers of 4 digits, reward = share of right digits. The policy has logits for every task and place,
    and what a digit of the draft at that place adds to them, alike for all tasks and places.

    value: expected share of right digits without draft after training, exact.
    """
    target = strings_with_target(16, 10, 4, stream(seed, "refined digits"))
    world = ToldStrings(SequenceWorld(16, 10, 4, share_right(target)), "draft", 10)
    policy = told_strings(torch.zeros(64, 10), torch.zeros(10, 10))
    drafts: list[float] = []

    def plain(run: Run, done: Round) -> float:
        drafts.append(done.metrics.get("reward_drafts", 0.0))
        drafts.append(done.metrics["reward"])
        return float(target_probability(policy.logits.detach().softmax(-1)[::11], target).mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, plain)
    notes = {
        "reward of trained rows, last 10 rounds": sum(drafts[1::2][-10:]) / 10,
        "reward of drafts, last 10 rounds": sum(drafts[0::2][-10:]) / 10,
    }
    return done.outcome("share of right digits, no draft", notes)


def rare_strategy(method: Method, seed: int, rounds: int) -> Outcome:
    """12 tasks, strings of 4 of 6 symbols, all must be right: the first two name one of two strategies, the others are
    the task's own. The policy begins with a liking for the first strategy; a third of the tasks need the second.
    Patterns name the strategies, and being told one moves the first two symbols towards it. Complexity: 1 or 2, the
    strategy.

    value: chance of a right string on tasks that need the second strategy, told nothing, exact.
    """
    rng = stream(seed, "rare strategy")
    rare = torch.arange(12) % 3 == 0
    target = torch.randint(6, (12, 4), generator=rng)
    target[:, 0], target[:, 1] = torch.where(rare, 1, 0), torch.where(rare, 3, 2)
    own = torch.zeros(12, 4, 6)
    own[:, 0, 0] = own[:, 1, 2] = 2.5
    told = torch.zeros(2, 4, 6)
    for pattern, (first, second) in enumerate(((0, 2), (1, 3))):
        told[pattern, 0, first] = told[pattern, 1, second] = 2.5
    world = PatternedStrings(SequenceWorld(12, 6, 4, all_right(target)), "pattern", 2, 1 + rare.long())
    policy = told_strings(own.reshape(48, 6), told)

    def chance(level: Tensor) -> float:
        state = torch.arange(48) * 3 + level.repeat_interleave(4)
        with torch.no_grad():
            table = policy.preferences(state).double().softmax(-1)
        return float(target_probability(table, target).prod(1)[rare].mean())

    nothing, named = torch.zeros(12, dtype=torch.int64), 1 + rare.long()
    mixed: list[float] = []

    def watch(run: Run, done: Round) -> float:
        mixed.append(share_informative(done.judged))
        return chance(nothing)

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    notes = {
        "the same, told the task's pattern": chance(named),
        "share of groups with both outcomes, first 20 rounds": sum(mixed[:20]) / 20,
    }
    return done.outcome("chance of a right string, rare", notes)


# -- rows of earlier rounds ------------------------------------------------------------------------------------------
def rare_right_answers(method: Method, seed: int, rounds: int) -> Outcome:
    """64 tasks of one step of 64 symbols, of which one is right, reward 0 or 1.

    value: share of groups (of a fresh draw) whose rows have advantages, mean over all rounds.
    score: chance of the right symbol after training.
    """
    target = torch.randint(64, (64,), generator=stream(seed, "rare right answers"))
    world = SequenceWorld(64, 64, 1, lambda strings, task: (strings[:, 0] == target[task]).float())
    chance: list[float] = []

    def watch(run: Run, done: Round) -> float:
        chance.append(float(probabilities(run)[torch.arange(64), target].mean()))
        group, used = done.credited.row["group"], (done.credited.step["advantage"] != 0).any(1)
        return len(group[used].unique()) / len(group.unique())

    done = fit(method, world, {"policy": uniform_table(64, 64)}, rounds, seed, watch)
    notes = {"chance of the right symbol after training": chance[-1]}
    label = "share of groups with advantages"
    return done.outcome(label, notes, value=sum(done.watched) / rounds, score=chance[-1])


def rare_episodes(method: Method, seed: int, rounds: int) -> Outcome:
    """20 tasks of 2 to 6 steps of 5 symbols (4 actions and the end), right if the actions are the task's own and the
    end follows at once; rows of at most 8 steps. Checks: whether the row ends by itself.

    value: chance that a task is done, mean over tasks, exact.
    """
    rng = stream(seed, "rare episodes")
    size, limit, end = 20, 8, 4
    length = 2 + torch.arange(size) % 5
    target = torch.randint(4, (size, limit), generator=rng)
    place = torch.arange(limit)
    target = torch.where(place < length[:, None], target, torch.where(place == length[:, None], end, -1))

    def solved(strings: Tensor, task: Tensor) -> Tensor:
        wanted = target[task][:, : strings.shape[1]]
        enough = strings.shape[1] > length[task]
        return ((strings == wanted).all(1) & enough).float()

    def ended(strings: Tensor, task: Tensor) -> Tensor:
        return (strings == end).any(1, keepdim=True).float()

    world = SequenceWorld(size, 5, limit, solved, end=end, checker=ended)
    flat: list[float] = []

    def watch(run: Run, done: Round) -> float:
        group, used = done.credited.row["group"], done.credited.row["score"]
        differ = informative(used, group, done.credited.row["scored"])
        flat.append(1 - len(group[differ].unique()) / len(group.unique()))
        return chance(run)

    def chance(run: Run) -> float:
        table = probabilities(run).view(size, limit, 5)
        each = table.gather(2, target.clamp(min=0)[..., None])[..., 0]
        return float(torch.where(target >= 0, each, 1.0).prod(1).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 5)}, rounds, seed, watch)
    notes = {"share of groups without both outcomes, second half": sum(flat[rounds // 2 :]) / (rounds - rounds // 2)}
    return done.outcome("chance that a task is done", notes)
