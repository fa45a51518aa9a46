"""MMR1: `reduces_to` of specification 161, scores, their renewal, the mixture of draws, diversity of rows."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import asking, first_symbol, kept_rounds, resumed
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.ops.diversity import distinct_share, edit_distance, edit_diversity
from policyopt.policies.tabular import Table
from policyopt.remembered import TASKS, noted
from policyopt.sampling.samplers import Group
from policyopt.selection.scored import DIVERSITY, FRESH_OUTCOME, OUTCOME, PromisingTasks
from policyopt.selection.tasks import Selection
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


def promising(count: int = 4, **options):
    return asking(Group(size=8), selection=Selection(count, PromisingTasks(**options)))


def draws(ctx, times: int) -> torch.Tensor:
    return torch.stack([ctx.stage.selection.draw(ctx, None).id for _ in range(times)])


def test_without_share_draws_are_uniform_without_repeats() -> None:
    ctx = promising(3, share=0.0)
    ctx.run.cells[TASKS.name] = {OUTCOME: torch.tensor([0.25, 0.0])}
    drawn = draws(ctx, 600)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    close(drawn.flatten().bincount(minlength=6) / 1800, [1 / 6] * 6, 0.03)


@pytest.mark.parametrize("score", [0.0, 0.2])
def test_equal_scores_are_uniform(score: float) -> None:
    ctx = promising(4, share=1.0)
    ctx.run.cells[TASKS.name] = {OUTCOME: torch.full((6,), score)}
    close(draws(ctx, 600).flatten().bincount(minlength=6) / 2400, [1 / 6] * 6, 0.03)


def test_draws_are_in_proportion_to_scores() -> None:
    """floor(0.5 * 5) = 2 by score, 3 uniform."""
    ctx = promising(5, share=0.5, diversity=0.5)
    outcome, diversity = torch.tensor([0.25, 0.0, 0.0, 0.05, 0.0, 0.0]), torch.tensor([0.0, 0.4, 0.0, 0.0, 0.0, 0.0])
    ctx.run.cells[TASKS.name] = {OUTCOME: outcome, DIVERSITY: diversity}
    score = outcome + 0.5 * diversity
    expected = (2 * score / score.sum() + 3 / 6) / 5
    close(draws(ctx, 800).flatten().bincount(minlength=6) / 4000, expected, 0.03)


def test_scores_are_the_population_variance_and_are_renewed() -> None:
    ctx = promising(6, every=2)
    first, second, third = kept_rounds(ctx, 3)
    fresh, held = noted(ctx, FRESH_OUTCOME, 6), noted(ctx, OUTCOME, 6)
    latest: dict[int, list[float]] = {}
    renewed: dict[int, list[float]] = {}
    for rows, place in itertools.product((first, second, third), range(6)):
        rewards = rows.step["reward"].sum(1)[rows.row["task"] == place].tolist()
        if rewards:
            latest[place] = rewards
            if rows is not third:
                renewed[place] = rewards
    for values, found in ((latest, fresh), (renewed, held)):
        for task, rewards in values.items():
            mean = sum(rewards) / len(rewards)
            assert float(found[task]) == pytest.approx(sum((r - mean) ** 2 for r in rewards) / len(rewards))
            assert float(found[task]) <= 0.25
    assert not torch.equal(fresh, held)


def test_diversity_is_measured_on_the_rows_of_a_task() -> None:
    ctx = promising(6, share=0.0, diversity=1.0, every=1, span=2)
    (rows,) = kept_rounds(ctx, 1)
    for task in range(6):
        strings = rows.step["_step"][rows.row["task"] == task].tolist()
        if strings:
            assert float(noted(ctx, DIVERSITY, 6)[task]) == distinct_share(strings, 2)


def test_diversities_by_hand() -> None:
    assert distinct_share([[1, 2, 3], [1, 2, 4]], 2) == 3 / 4
    assert distinct_share([[1, 2], [3]], 3) == 0.0
    assert edit_distance([1, 2, 3, 4], [2, 3, 5]) == 2
    assert edit_diversity([[1, 2], [1, 2], [3, 4]]) == pytest.approx(2 / 3)
    assert edit_diversity([[1]]) == 0.0


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_edit_distance_is_a_metric(a: list[int], b: list[int]) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_options_and_restart() -> None:
    assert load("mmr1_vas").constraint[0].weight == 0.01
    with pytest.raises(CompositionError):
        PromisingTasks(share=1.5)
    drawn = promising(9, share=0.0).stage.selection.draw(promising(), None).id
    assert sorted(drawn.bincount().tolist()) == [1, 1, 1, 2, 2, 2]
    world = first_symbol(torch.tensor([0.0, 1.0]))
    changes = {"selection.count": 3, "selection.every": 1, "constraint.kl.weight": 0.0}
    resumed(load("mmr1_vas"), world, lambda: Table(numbers(12, 2)), changes=changes)
