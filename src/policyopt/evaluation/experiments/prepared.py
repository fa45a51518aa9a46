"""Credit by models that an earlier stage trained, in strings whose right symbols depend on the one before."""

from __future__ import annotations

import math
from typing import Any

import torch

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._staged import Before, staged
from policyopt.evaluation.experiments._worlds import Turns
from policyopt.evaluation.experiments._written import hits, knowing, written
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.run import Run


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
    return done.outcome("probability of success", notes, value=value)


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
