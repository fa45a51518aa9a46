"""VADE: `reduces_to` of specification 139, posteriors by hand, draws, choice and fading."""

import pytest
import torch

from asked import asking, first_symbol, kept_rounds, resumed
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.remembered import TASKS, noted
from policyopt.sampling.samplers import Group
from policyopt.selection.scored import RIGHT, WRONG, ThompsonTasks, draw_beta, information
from policyopt.selection.tasks import Selection
from policyopt.types import Round
from support import close, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


def thompson(count: int = 4, **options):
    part = ThompsonTasks(**options)
    return asking(Group(size=8), selection=Selection(count, part))


def after(ctx, tasks: list[int], rewards: list[float], scored: list[int] | None = None) -> None:
    rows = with_row(rewarded(ragged((2,) * len(tasks), tools=False), rewards), task=tasks)
    if scored:
        rows = with_row(rows, scored=scored)
    ctx.stage.selection.tasks.after(ctx, Round(rows, rows, rows, {}))


def test_without_fading_the_posterior_is_exact() -> None:
    """a + b - 2 is the number of rows of the task, whatever the order of rounds."""
    ctx = thompson(fading=1.0, fading_attempted=1.0)
    found = kept_rounds(ctx, 5)
    right, wrong = noted(ctx, RIGHT, 6), noted(ctx, WRONG, 6)
    for task in range(6):
        rewards = torch.cat([rows.step["reward"].sum(1)[rows.row["task"] == task] for rows in found])
        assert float(right[task]) == float(rewards.sum())
        assert float((right + wrong)[task]) == len(rewards)


def test_fading_by_hand() -> None:
    ctx = thompson(fading=0.5, fading_attempted=0.1)
    after(ctx, [0, 0, 0, 2], [1.0, 1.0, 0.0, 1.0])
    after(ctx, [2, 2, 3, 3], [0.0, 1.0, 1.0, 7.0], scored=[1, 1, 0, 1])
    assert noted(ctx, RIGHT, 4).tolist() == [1.0, 0.0, 0.05 * 1 + 1, 1.0]
    assert noted(ctx, WRONG, 4).tolist() == [0.5, 0.0, 1.0, 0.0]


def test_draws_have_the_moments_of_beta() -> None:
    a, b = torch.tensor([1.0, 3.0, 20.0]), torch.tensor([1.0, 1.0, 5.0])
    rng = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_beta(a, b, rng) for _ in range(5000)])
    mean = a / (a + b)
    close(drawn.mean(0), mean, 0.015)
    close(drawn.var(0), mean * (1 - mean) / (a + b + 1), 0.005)


def test_information_by_hand() -> None:
    theta = torch.tensor([0.0, 0.5, 0.9])
    close(information(theta, "variance"), [0.0, 0.25, 0.09])
    close(information(theta, "right_rows"), [0.0, 0.125, 0.009])
    close(information(theta, "entropy"), [0.0, 0.6931471805599453, 0.3250829733914482])
    close(information(theta, "constant"), [1.0, 1.0, 1.0])


def test_tasks_of_mixed_outcomes_are_chosen() -> None:
    """Of six tasks four are known to be solved or lost; the two others are asked, in most draws."""
    ctx = thompson(2)
    evidence = torch.tensor([200.0, 0.0, 100.0, 200.0, 100.0, 0.0])
    ctx.run.cells[TASKS.name] = {RIGHT: evidence, WRONG: 200.0 - evidence}
    drawn = torch.stack([ctx.stage.selection.draw(ctx, None).id.sort().values for _ in range(100)])
    assert drawn.tolist() == [[2, 4]] * 100


def test_constant_information_is_uniform_and_without_repeats() -> None:
    ctx = thompson(3, information="constant")
    ctx.run.cells[TASKS.name] = {RIGHT: torch.tensor([50.0]), WRONG: torch.tensor([0.0])}
    drawn = torch.stack([ctx.stage.selection.draw(ctx, None).id for _ in range(600)])
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    close(drawn.flatten().bincount(minlength=6) / 1800, [1 / 6] * 6, 0.03)


def test_a_new_world_is_drawn_uniformly_and_again_if_more_are_wanted() -> None:
    ctx = thompson(2)
    drawn = torch.stack([ctx.stage.selection.draw(ctx, None).id for _ in range(600)])
    close(drawn.flatten().bincount(minlength=6) / 1200, [1 / 6] * 6, 0.04)
    assert sorted(thompson(14).stage.selection.draw(ctx, None).id.bincount().tolist()) == [2, 2, 2, 2, 3, 3]
    with pytest.raises(CompositionError, match=r"0\.\.1"):
        ThompsonTasks(fading=1.5)


def test_posteriors_survive_a_restart() -> None:
    world = first_symbol(torch.tensor([0.0, 1.0]))
    resumed(load("vade"), world, lambda: Table(numbers(12, 2)), changes={"selection.count": 3})
