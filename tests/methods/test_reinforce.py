"""REINFORCE: its expected gradient is the exact policy gradient, whatever the baseline."""

from dataclasses import replace

import pytest
import torch

from enumeration import every_group, exact_policy_gradient, first_step, row_logp, tiny_world, weighted
from policyopt.compose import Program, Stage
from policyopt.credit.returns import BASELINE, ReturnToGo, UpdateBaseline
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Round
from support import close, context, grid, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def with_baseline(value: float):
    """The method with a baseline from the first round on."""

    def enter(ctx) -> None:
        ctx[BASELINE] = {"mean": value, "rounds": 5}

    return replace(load("reinforce"), before=(enter,))


def test_expected_gradient_by_enumeration() -> None:
    for baseline in (0.0, 4.0):
        world, policy = tiny_world(), Table(numbers(2, 3, seed=1))
        batch = every_group(world, 1)
        chance = row_logp(policy, batch).detach().exp()

        def weight(seen, part, chance=chance):
            return len(chance) * chance[part.row["_row"]][:, None]

        done = first_step(weighted(with_baseline(baseline), weight), {"policy": policy}, batch, world)
        exact = exact_policy_gradient(Table(numbers(2, 3, seed=1)), world)
        close(done.gradient, -exact, what=f"baseline {baseline}")
        credited = done.round.credited
        found = credited.step["advantage"][credited.own]
        close(found + baseline, world.grade(batch)[:, None].expand(-1, 2)[credited.own])


def test_expected_gradient_with_rewards_on_the_way() -> None:
    """Rewards that depend on the prefix: reward to go is unbiased for the sum of all rewards."""
    world, policy = tiny_world(), Table(numbers(2, 3, seed=1))
    batch = every_group(world, 1)
    first, both = numbers(3, seed=7), numbers(3, 3, seed=8)
    symbols = batch.step["_step"]
    rewards = torch.stack([first[symbols[:, 0]], both[symbols[:, 0], symbols[:, 1]]], 1)
    batch = batch.with_steps({"reward": torch.where(batch.own, rewards, 0.0)})
    chance = row_logp(policy, batch).detach().exp()
    made = replace(load("reinforce"), reward=FromWorld())
    made = weighted(made, lambda seen, part: len(chance) * chance[part.row["_row"]][:, None])
    done = first_step(made, {"policy": policy}, batch, world)
    exact = exact_policy_gradient(Table(numbers(2, 3, seed=1)), world, batch.step["reward"].sum(1))
    close(done.gradient, -exact)


def test_return_to_go_by_hand() -> None:
    """Lengths 2 and 3, gamma 1/2, baseline 1."""
    batch = ragged((2, 3), tools=False)
    batch = batch.with_steps({"reward": torch.tensor([[1.0, 2.0, 99.0], [0.0, 4.0, 8.0]])})
    ctx = context(method(), grids())
    ctx[BASELINE] = {"mean": 1.0, "rounds": 1}
    found = ReturnToGo(gamma=0.5)(ctx, batch)
    close(found.step["return"], [[2.0, 2.0, 0.0], [4.0, 8.0, 8.0]])
    close(found.step["advantage"], [[1.0, 1.0, 0.0], [3.0, 7.0, 7.0]])


def test_the_baseline_is_the_corrected_average_of_earlier_rounds() -> None:
    """decay 1/2: after means 4, 8: (0.5 * 4 + 8) * 0.5 / (1 - 0.25) = 20/3; the first round's is exactly 4."""
    ctx = context(method(), {"policy": grid(0)})
    batch = ragged((2, 3), tools=False)
    for mean, expected in ((4.0, 4.0), (8.0, 20 / 3)):
        rows = batch.with_steps({"return": torch.full((2, 3), mean)})
        UpdateBaseline(decay=0.5)(ctx, Round(rows, rows, rows, {}))
        close(ctx[BASELINE]["mean"], expected)
    nothing = batch.with_rows({"scored": torch.zeros(2, dtype=torch.bool)})
    UpdateBaseline(decay=0.5)(ctx, Round(nothing, nothing, nothing, {}))
    close(ctx[BASELINE]["mean"], 20 / 3)


def test_a_stage_does_not_begin_with_the_baseline_of_another() -> None:
    """Nor does one without a moving average of its own keep subtracting what the stage before it has left."""
    world = tiny_world()
    made = override(load("reinforce"), {"selection.count": 2, "update.learning_rate": 0.1})
    run = Run({"policy": Table(numbers(2, 3))}, world, generate, 0)
    program = Program((Stage(made, 3), Stage(replace(made, after=()), 2), Stage(made, 1)))
    for number, done in enumerate(rounds(run, program)):
        rows = done.credited
        gap = (rows.step["return"] - rows.step["advantage"])[rows.own]
        if number in (0, 3, 4, 5):
            close(gap, torch.zeros_like(gap))
        if number == 2:
            assert float(gap.abs().min()) > 0.01
