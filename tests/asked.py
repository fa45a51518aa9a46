"""Sampling parts and task orders in a context: small worlds with rewards by hand, rounds without updates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.run import Run, StageContext
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge, rounds
from policyopt.types import Batch, Round
from policyopt.worlds.sequences import SequenceWorld
from support import context, method, numbers


def first_symbol(grades: Tensor, tasks: int = 6, limit: int = 2) -> SequenceWorld:
    """Strings that are worth grades (V,) by their first symbol."""
    return SequenceWorld(tasks, len(grades), limit, lambda strings, task: grades[strings[:, 0]].to(torch.float64))


def asking(
    part: Any, world: Any = None, policy: Any = None, count: int = 4, seed: int = 3, **parts: Any
) -> StageContext:
    """A context whose stage samples by a part."""
    world = world or first_symbol(torch.tensor([0.0, 1.0]))
    policy = policy or Table(numbers(world.size * 2, 2, seed=1))
    made = method(sampling=part, **{"reward": Verified(), "selection": Selection(count), **parts})
    return context(made, {"policy": policy}, world, generate, seed)


def sampled(ctx: StageContext) -> Batch:
    """What the stage's sampler returns in one round."""
    ctx.run._calls.clear()
    return ctx.stage.sampling(ctx, _draw(ctx), _judge(ctx))


def kept_rounds(ctx: StageContext, count: int) -> list[Batch]:
    """Rounds of sampling, each followed by the parts' own hooks."""
    found = []
    for _ in range(count):
        rows = sampled(ctx)
        for part in (ctx.stage.selection, ctx.stage.sampling, ctx.stage.reward):
            part.after(ctx, Round(rows, rows, rows, {}))
        ctx.run.step += 1
        found.append(rows)
    return found


def same_rows(one: Batch, other: Batch, columns: tuple[str, ...] = ("task", "group", "source")) -> None:
    """Assert that rows, steps, rewards and log-probabilities are the same, bit for bit."""
    for name in columns:
        assert torch.equal(one.row[name], other.row[name]), name
    for name in ("_step", "behaviour", "reward", "train", "kind"):
        assert torch.equal(one.step[name], other.step[name]), name


def as_group(part: Any, size: int, **given: Any) -> None:
    """Assert that a sampler returns what `Group(size)` returns."""
    same_rows(sampled(asking(part, **given)), sampled(asking(Group(size), **given)))


def resumed(made: Method, world: Any, policy: Any, count: int = 4, changes: Any = None) -> None:
    """Assert that a run goes on bitwise from its state after half of the rounds: weights and cells."""
    program = Program((Stage(override(made, changes or {}), count),))

    def fresh() -> Run:
        return Run({"policy": policy()}, world, generate, 5)

    straight, first, second = fresh(), fresh(), fresh()
    list(rounds(straight, program))
    going = rounds(first, program)
    for _ in range(count // 2):
        next(going)
    second.load_state(first.state(), program)
    list(rounds(second, program))
    for a, b in zip(straight.models["policy"].parameters(), second.models["policy"].parameters(), strict=True):
        assert torch.equal(a, b)
    equal(straight.cells, second.cells)


def equal(one: Any, other: Any) -> None:
    """Assert that nested state is the same, bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            equal(one[key], other[key])
    elif isinstance(one, Batch):
        equal(dict(one.row), dict(other.row))
        equal(dict(one.step), dict(other.step))
    else:
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
