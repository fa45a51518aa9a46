"""ZO-RankSGD: `reduces_to` of specification 129, each identity a test."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.ops.perturbations import held, moved, perturbations
from policyopt.ops.rankings import best_first, rank_weights
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.update.ranked import DIRECTIONS, RankedStep
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("count", "best"), [(2, 1), (5, 2), (6, 6), (4, 1), (7, 3)])
def test_weights_are_the_mean_vote_of_all_ordered_pairs(count: int, best: int) -> None:
    noise, worth = numbers(count, 3, seed=count), numbers(count, seed=best)
    order = best_first(worth, best)
    place = {int(i): p for p, i in enumerate(order)}
    votes = [
        noise[i] - noise[j]
        for i, j in itertools.permutations(range(count), 2)
        if i in place and place[i] < place.get(j, best)
    ]
    assert len(votes) == best * (best - 1) // 2 + best * (count - best)
    close(rank_weights(order, count) @ noise, torch.stack(votes).mean(0))


def test_of_two_it_is_the_comparison_oracle() -> None:
    close(rank_weights(torch.tensor([1]), 2), [-1.0, 1.0])
    with pytest.raises(ValueError, match="once each"):
        rank_weights(torch.tensor([0, 0]), 3)
    with pytest.raises(ValueError, match="at least two"):
        rank_weights(torch.tensor([0]), 1)


def test_all_ranked_is_centred_linear_rank_shaping() -> None:
    worth = torch.tensor([0.3, 5.0, -1.0, 0.9])
    weights = rank_weights(best_first(worth, 4), 4)
    rank = worth.argsort().argsort().double()
    close(weights, (2 * rank - 3) / 6)
    assert best_first(torch.tensor([1.0, 2.0, 2.0]), 2).tolist() == [1, 2]


def world(shape: Any = None) -> SequenceWorld:
    target = torch.tensor([2, 0, 1])
    shape = shape or (lambda x: x)
    return SequenceWorld(2, 3, 3, lambda s, task: shape((s == target).double().mean(1) + 0.1 * task))


def trained(changes: dict[str, Any], shape: Any = None, count: int = 4) -> tuple[torch.Tensor, Run]:
    made = override(load("zo_ranksgd"), {"selection.count": 2, "sampling.candidates": 5, **changes})
    run = Run({"policy": Table(torch.zeros(6, 3))}, world(shape), generate, 3)
    list(rounds(run, Program((Stage(made, count),))))
    policy: Any = run.models["policy"]
    return policy.logits.detach(), run


@pytest.mark.parametrize("points", [0, 3])
def test_an_increasing_function_of_the_reward_changes_nothing(points: int) -> None:
    """One row a candidate, so that its worth is that function of one reward."""
    options = {"selection.count": 1, "update.points": points}
    plain, steep = trained(options)[0], trained(options, lambda x: (7 * x).exp())[0]
    assert float(plain.abs().max()) > 1e-2
    assert torch.equal(plain, steep)
    by_value = [trained({**options, "update.by": "values"}, s)[0] for s in (None, lambda x: (7 * x).exp())]
    assert not torch.equal(*by_value)


def test_a_step_without_search_by_hand() -> None:
    found, _ = trained({"update.points": 0, "update.rate": 0.7, "update.best": 2}, count=1)
    made = override(load("zo_ranksgd"), {"selection.count": 2, "sampling.candidates": 5, "update.points": 0})
    run = Run({"policy": Table(torch.zeros(6, 3))}, world(), generate, 3)
    done = next(rounds(run, Program((Stage(replace(made, update=_Idle()), 1),))))
    rows = done.judged
    worth = [float(rows.step["reward"][rows.row["candidate"] == c].sum()) / 2 for c in range(5)]
    noise = perturbations(run.models["policy"], 5, 3, 0)
    weights = rank_weights(best_first(torch.tensor(worth), 2), 5)
    close(found.flatten(), 0.7 * (weights @ noise))
    assert [int((rows.row["candidate"] == c).sum()) for c in range(5)] == [2] * 5


class _Idle(RankedStep):
    def __call__(self, ctx: Any, batch: Any) -> None:
        pass


def test_if_the_present_policy_wins_it_stays_and_directions_are_averaged() -> None:
    """Nothing is better than anything: the first among equals is the present policy."""
    table, run = trained({"update.points": 3}, lambda x: torch.zeros_like(x), count=3)
    close(table, torch.zeros(6, 3))
    held_ = run.cells[DIRECTIONS.name]
    assert held_["count"] == 3
    weights = rank_weights(torch.tensor([0, 1, 2]), 5)
    noise = [weights @ perturbations(run.models["policy"], 5, 3, step) for step in range(3)]
    close(held_["mean"], torch.stack(noise).mean(0))


def test_models_are_given_back_bit_for_bit() -> None:
    model = Table(numbers(3, 2))
    before = model.logits.detach().clone()
    with held(model):
        moved(model, torch.full((6,), 0.3))
        close(model.logits, before + 0.3)
    assert torch.equal(model.logits.detach(), before)
    assert not torch.equal(perturbations(model, 2, 0, 1), perturbations(model, 2, 0, 2))
    with pytest.raises(CompositionError, match="rate > 0"):
        RankedStep(rate=0.0)
