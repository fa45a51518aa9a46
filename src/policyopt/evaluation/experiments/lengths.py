"""Lengths of answers: concise ones, budgets that rows are told, lengths that are remembered."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, fit
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._lengths import (
    LengthWorld,
    around,
    chances,
    correlation,
    length_spread,
    mean_length,
    told_table,
)
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.linear import Linear
from policyopt.remembered import TASKS
from policyopt.reward.lengths import MEDIAN
from policyopt.run import Run
from policyopt.train import rounds as train_rounds


def _length(policy: Linear, size: int) -> float:
    return float(mean_length(chances(policy, size)).mean())


def concise_answers(method: Method, seed: int, rounds: int, lucky: float = 0.0) -> Outcome:
    """24 tasks that need lengths of 4 to 19 of 40; answers are right with probability 0.9 once they are as long as
    that, and begin around 28. `lucky`: the same below the need.

    value: expected length after training, exact, mean over tasks.
    """
    needs = torch.randint(4, 20, (24,), generator=stream(seed, "concise answers"))
    world = LengthWorld(needs, lucky=lucky, seed=seed)
    policy = told_table(around(28, 40, 24), 0)
    done = fit(method, world, {"policy": policy}, rounds, seed, lambda run, _: _length(policy, world.size))
    table = chances(policy, world.size)
    notes = {
        "accuracy after training": float(world.accuracy(table).mean()),
        "correlation of length and need": correlation(mean_length(table), needs),
        "deviation of the length within a task": float(length_spread(table).mean()),
    }
    return done.outcome("expected length", notes, score=float(world.accuracy(table).mean()))


def announced_budgets(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks that need 3, 6, ... 24 of 32 steps; answers are right with probability 0.95 once they are as long, and
    begin around 24. Rows may be told one of the budgets 4, 8, 16, 32, whose effect on the logits all tasks share.

    value: expected length after training of answers that are told nothing, exact, mean over tasks.
    """
    needs = 3 * torch.arange(1, 9)
    world = LengthWorld(needs, 32, 0.95, told=(4.0, 8.0, 16.0, 32.0), seed=seed)
    policy = told_table(around(24, 32, 8), 4)
    done = fit(method, world, {"policy": policy}, rounds, seed, lambda run, _: _length(policy, world.size))
    table = chances(policy, world.size)
    order = mean_length(table).argsort().argsort()
    notes = {
        "accuracy after training": float(world.accuracy(table).mean()),
        "rank correlation of length and need": correlation(order, needs),
    }
    score = float(world.accuracy(table).mean())
    return done.outcome("expected length", notes, score=score)


def remembered_targets(method: Method, seed: int, rounds: int, second: str = "") -> Outcome:
    """24 tasks that need lengths of 4 to 19 of 40; answers are right with probability 0.9 once they are as long, and
    begin around 28. Rows may be told any length, whose effect on the logits all tasks share. `second`: the method of
    the second half of the rounds (else the first goes on).

    value: expected length after training, exact, mean over tasks, told what the second method tells them.
    """
    needs = torch.randint(4, 20, (24,), generator=stream(seed, "concise answers"))
    world = LengthWorld(needs, told=tuple(float(n) for n in range(1, 41)), seed=seed)
    policy = told_table(around(28, 40, 24), 40)
    stages = [Stage(method, rounds - rounds // 2 if second else rounds)]
    if second:
        then = override(load(second), {"selection.count": 24, "reward.sigma": 5.0})
        stages.append(Stage(replace(then, update=method.update), rounds // 2))
    engine = CountingEngine()
    run = Run({"policy": policy}, world, engine, seed)
    curve, spread = [], []
    for _ in train_rounds(run, Program(tuple(stages))):
        curve.append(float(mean_length(chances(policy, world.size, _told(run, world))).mean()))
        spread.append(float(length_spread(chances(policy, world.size, _told(run, world))).mean()))
    level = _told(run, world)
    table, plain = chances(policy, world.size, level), chances(policy, world.size)
    half = rounds - rounds // 2 - 1
    notes = {
        "accuracy after training": float(world.accuracy(table).mean()),
        "deviation of the length within a task at half time": spread[half],
        "deviation of the length within a task after training": spread[-1],
        "correlation of told and used length": correlation(mean_length(table), level) if second else 0.0,
        "expected length without being told": float(mean_length(plain).mean()),
        "accuracy without being told": float(world.accuracy(plain).mean()),
    }
    score = float(world.accuracy(table).mean())
    return Outcome(curve[-1], score, engine.rows, tuple(curve), "expected length", notes)


def _told(run: Run, world: LengthWorld) -> Tensor:
    """(N,) what tasks are told: levels of the remembered lengths, 0 before any is."""
    held = run.cells.get(TASKS.name, {}).get(MEDIAN, torch.zeros(0))
    padded = torch.zeros(world.size, dtype=torch.float64)
    padded[: len(held)] = held
    return world.level(padded)
