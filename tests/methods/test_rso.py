"""RSO: `reduces_to` of specification 133."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.compose import Nothing
from policyopt.engines.plain import generate
from policyopt.feedback.lists import AcceptedPairs
from policyopt.methods import load
from policyopt.ops.rejection import accepted
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.sampling.samplers import Group, RecordedPairs
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import bandit
from support import close, context, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_cold_sampling_keeps_the_largest_and_hot_sampling_the_first() -> None:
    reward = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert accepted(reward, 3, 1e-9, rng()) == [1, 3, 2]
    assert accepted(reward, 3, 1e9, rng()) == [0, 1, 2]
    assert sorted(accepted(reward, 9, 0.5, rng())) == [0, 1, 2, 3]


def test_accepted_candidates_follow_the_tilted_distribution() -> None:
    """Many candidates, few accepted: 3 answers with p = 0.5, 0.3, 0.2."""
    p, r, beta = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.0, 0.3, 0.6]), 0.5
    drawn = torch.multinomial(p, 12_000, replacement=True, generator=rng(1))
    kept = accepted(r[drawn], 1_500, beta, rng(2))
    share = torch.bincount(drawn[kept], minlength=3) / len(kept)
    best = p * torch.exp(r / beta)
    close(share, best / best.sum(), atol=0.05)


def test_the_largest_of_a_pass_stays_its_measure_when_it_is_taken() -> None:
    """Of (1, 0, -1/2), two: the last is the second one if both luck and its own say so in the first pass."""
    luck, reward = rng(4), torch.tensor([1.0, 0.0, -0.5])
    share = sum(accepted(reward, 2, 1.0, luck) == [0, 2] for _ in range(2000)) / 2000
    assert share == pytest.approx((1 - math.exp(-1)) * math.exp(-1.5), abs=0.03)


def test_every_index_is_taken_once_and_the_largest_always() -> None:
    reward = numbers(20, seed=3)
    for seed in range(5):
        kept = accepted(reward, 8, 0.3, rng(seed))
        assert len(set(kept)) == 8
        assert int(reward.argmax()) in accepted(reward, 20, 0.3, rng(seed))


def test_pairs_are_of_one_group_the_larger_reward_first() -> None:
    batch = rewarded(with_row(ragged((2,) * 8), group=[0, 1] * 4), [0.1, 1.0, 0.2, 1.0, 0.3, 1.0, 0.4, 1.0])
    done = AcceptedPairs(count=4)(context(method(), grids()), batch)
    pair, rank = done.row["pair"], done.row["rank"]
    assert sorted(rank.tolist()) == [-1] * 4 + [0, 0, 1, 1]  # equal rewards make no pair
    for one in (0, 1):
        rows = (pair == one).nonzero()[:, 0]
        assert done.row["group"][rows].tolist() == [0, 0]
        assert float(batch.step["reward"][rows[rank[rows].argmin()], 0]) > float(
            batch.step["reward"][rows[rank[rows].argmax()], 0]
        )


def test_the_loss_is_dpo_with_gamma_for_beta() -> None:
    rso, dpo = load("rso"), override(load("dpo"), {"objective.beta": 0.05})
    made = replace(rso, feedback=Nothing(), sampling=RecordedPairs())
    close(
        first_step(made, grids(), ragged(), Grades([1.0, 1.0, 0.0, 0.0])).gradient,
        first_step(dpo, grids(), ragged()).gradient,
    )


def test_the_hinge_stops_at_a_margin_of_one() -> None:
    made = replace(
        override(load("rso:rso_hinge"), {"objective.beta": 100.0}), feedback=Nothing(), sampling=RecordedPairs()
    )
    models = grids()
    with torch.no_grad():
        models["policy"].logp[:2] += 9
    done = first_step(made, models, ragged(), Grades([1.0, 1.0, 0.0, 0.0]))
    close(done.gradient, torch.zeros_like(done.gradient))
    assert math.isfinite(done.round.metrics["loss/preference"])


def test_candidates_are_the_supervised_policys() -> None:
    world = bandit(torch.zeros(2, 3))
    models = {"policy": Table(numbers(2, 3)), "reference": Table(torch.tensor([[0.0, -99, -99], [-99, 0.0, -99]]))}
    ctx = context(method(sampling=Group(4, model="reference")), models, world, generate)
    batch = Group(4, model="reference")(ctx, _draw(ctx), _judge(ctx))
    assert bool((batch.step["_step"][:, 0] == batch.row["task"]).all())
