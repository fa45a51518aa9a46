"""GVM: `reduces_to` of specification 166, the allocation, gradient norms, ragged groups, its three losses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asked import asking, first_symbol, sampled
from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.sampling.adaptive import AllocatedGroup, allocation, variance_weights
from support import close, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def test_equal_tasks_get_equal_numbers() -> None:
    rate, norm = torch.full((5,), 0.3), torch.full((5,), 2.0)
    assert allocation(variance_weights(rate, norm, 1e-3, 2.0), 40).tolist() == [8] * 5
    assert allocation(torch.zeros(3), 12).tolist() == [4] * 3


def test_without_alpha_the_variance_is_least() -> None:
    """sum G^2 / (p N) at N ~ G / sqrt(p), against many other allocations of the same sum."""
    rng = torch.Generator().manual_seed(0)
    rate, norm = torch.rand(6, generator=rng), torch.rand(6, generator=rng)
    best = variance_weights(rate, norm, 0.0, 2.0)
    best = best / best.sum()

    def variance(share: torch.Tensor) -> torch.Tensor:
        return (norm**2 / rate / share).sum(-1)

    others = torch.rand(2000, 6, generator=rng) + 0.01
    near = best + 0.02 * torch.rand(2000, 6, generator=rng)
    for shares in (others, near):
        assert float(variance(shares / shares.sum(1, keepdim=True)).min()) >= float(variance(best))
    expected = (norm / rate.sqrt()).sum() ** 2
    close(variance(best), expected, 1e-9)


def test_weights_by_hand() -> None:
    rate, norm = torch.tensor([0.25, 0.0, 1.0, 0.5]), torch.tensor([1.0, 3.0, 0.0, 2.0])
    close(variance_weights(rate, norm, 0.0, 2.0), [2.0, 0.0, 0.0, 2 * 2**0.5])
    close(variance_weights(rate, norm, 0.01, 2.0)[0], (0.25 + 0.04) ** -0.5)
    close(variance_weights(rate, norm, 0.01, 3.0)[0], (0.25 + 0.16) ** -0.5)


@given(st.lists(st.floats(0.0, 9.0), min_size=1, max_size=9), st.integers(0, 60))
def test_allocations_sum_up_and_are_near_their_shares(weights: list[float], total: int) -> None:
    counts = allocation(torch.tensor(weights), total)
    assert int(counts.sum()) == total
    assert int(counts.min()) >= 0
    share = torch.tensor(weights) if sum(weights) else torch.ones(len(weights))
    assert float((counts - total * share / share.sum()).abs().max()) <= 1.5
    # The first of equals gets what is left over.
    assert allocation(torch.ones(3), 4).tolist() == [2, 1, 1]


def test_norms_of_a_softmax_by_hand() -> None:
    """|grad log pi(row)| of a table is the root of the sum over its steps of |e_a - p|^2."""
    policy = Table(numbers(12, 2, seed=2))
    ctx = asking(AllocatedGroup(), policy=policy)
    rows = ctx.extend(ctx.world.start(ctx.world.tasks(torch.tensor([0, 1, 2, 5]))))
    found = AllocatedGroup().norms(ctx, rows)
    for b in range(4):
        square = 0.0
        for t in range(2):
            p = policy.logits.detach()[rows.step["_state"][b, t]].softmax(0)
            e = torch.eye(2)[rows.step["_step"][b, t]]
            square += float(((e - p) ** 2).sum())
        close(found[b], square**0.5)
    with pytest.raises(CompositionError, match="no trained parameter"):
        AllocatedGroup(parameters="head").norms(ctx, rows)


def test_groups_are_ragged_and_hopeless_tasks_get_nothing() -> None:
    logits = torch.zeros(12, 2)
    logits[0, 1], logits[2, 1], logits[4, 1] = -40.0, -1.5, 1.0
    world = first_symbol(torch.tensor([0.0, 1.0]))
    ctx = asking(AllocatedGroup(size=6, pilot=30), world, Table(logits), 6)
    rows = sampled(ctx)
    counts = rows.row["task"].bincount(minlength=6).tolist()
    assert sum(counts) == 36
    assert counts[0] == 0
    assert counts[1] > counts[3] > counts[2] > 0
    assert float(rows.row["rate"][rows.row["task"] == 2].unique()) == pytest.approx(0.73, abs=0.2)
    same = sampled(asking(AllocatedGroup(size=6, pilot=30, uniform=True), world, Table(logits), 6))
    assert same.row["task"].bincount().tolist() == [6] * 6


def test_raft_is_the_mean_over_tasks_of_the_mean_over_accepted_rows() -> None:
    """Against a loop, on ragged groups with tool steps."""
    batch = with_row(ragged((1, 2, 7, 13)), group=[5, 5, 5, 9])
    done = first_step(replace(load("gvm_raft")), grids(), batch, Grades([1.0, 0.0, 1.0, 1.0]))
    expected = torch.zeros_like(done.gradient)
    for b, weight in ((0, 1 / 4), (2, 1 / 4), (3, 1 / 2)):
        for t in batch.trained[b].nonzero()[:, 0].tolist():
            expected[b, t] = -weight
    close(done.gradient, expected)


def test_the_clipped_variant_begins_with_the_gradient_of_raft() -> None:
    """At r = 1, on groups with equally many accepted rows of equal length (their averages differ otherwise)."""
    batch = ragged((3, 3, 3, 3), tools=False)
    grades = Grades([1.0, 1.0, 0.0, 0.0])
    plain = first_step(load("gvm_raft"), grids(), batch, grades, old=None).gradient
    old = grids()["policy"].logp.detach()[:4, :3]
    clipped = first_step(load("gvm_raft:gvm_raft_plus"), grids(), batch, grades, old=old).gradient
    close(plain, 3 * clipped)
    assert float(plain.abs().max()) > 0.1


def test_the_group_variant_is_dapos_loss_on_allocated_groups() -> None:
    batch, grades = ragged(), Grades([1.0, 0.0, 0.0, 2.0])
    dapo = replace(load("dapo"), reward=load("gvm_raft").reward)
    plus = load("gvm_raft:gvm_grpo")
    (term,) = plus.objective
    dapo = replace(dapo, objective=(term,))
    close(first_step(plus, grids(), batch, grades).gradient, first_step(dapo, grids(), batch, grades).gradient)
