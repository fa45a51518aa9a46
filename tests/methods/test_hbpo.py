"""HBPO: `reduces_to` of specification 13, budgets told to subgroups, rewards and both advantages by hand."""

import math

import pytest
import torch
from torch import Tensor

from asked import asking, resumed, sampled
from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.credit.subgroups import AgainstPar
from policyopt.evaluation.experiments._lengths import LengthWorld, around, told_table
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.reward.lengths import WithinBudget, beyond_budget, budget_worth
from policyopt.sampling.told import Shared, ToldGroup
from support import close, context, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


def budgeted(lengths: tuple[int, ...], budgets: list[float]):
    return with_row(ragged(lengths, tools=False), group=[0] * len(lengths)).with_rows({"budget": torch.tensor(budgets)})


def hbpo(limit: float = 16.0, **changes):
    return override(load("hbpo"), {"reward.within_budget.limit": limit, **changes})


def test_right_and_within_budget_it_is_grpo() -> None:
    """mu_k = f2(b_k): the term between budgets vanishes, and A is the group's."""
    batch = budgeted((2, 4, 7, 8), [4.0, 4.0, 16.0, 16.0])
    done = first_step(hbpo(), grids(), batch, Grades([1.0] * 4))
    worth = budget_worth(batch.row["budget"], 16.0, 4.0)
    close(done.advantage, (worth - worth.mean()) / (worth.std() + 1e-6))


def test_where_all_are_wrong_the_advantage_is_minus_the_par() -> None:
    batch = budgeted((2, 4, 7, 8), [4.0, 4.0, 16.0, 8.0])
    done = first_step(hbpo(), grids(), batch, Grades([0.0] * 4))
    close(done.advantage, [-4 * math.cos(math.pi * b / 32) for b in (4, 4, 16, 8)])


def test_rewards_by_hand() -> None:
    """L = 8, beta = 4: within b = 4: 4 cos(pi/4); 6 steps at b = 4: 4 cos(3 pi/8) - 2/8; wrong or beyond L: 0."""
    batch = rewarded(budgeted((3, 6, 3, 13), [4.0, 4.0, 4.0, 4.0]), [1.0, 1.0, 0.0, 1.0])
    found = WithinBudget(limit=8.0)(context(method(), grids()), batch)
    close(total_reward(found), [4 * math.cos(math.pi / 4), 4 * math.cos(3 * math.pi / 8) - 0.25, 0.0, 0.0])
    close(found.row["par"], [4 * math.cos(math.pi / 4)] * 4)


def test_released_reward_differs_only_for_the_smallest_budget() -> None:
    """min(f1, f2) within b = 512 for answers of at most 321 tokens, by up to 0.048; not for the larger budgets."""
    length = torch.arange(1.0, 2561.0)
    for budget in (512.0, 1024.0, 2048.0, 2560.0):
        n = length[length <= budget]
        par = budget_worth(torch.tensor(budget), 4096, 4.0)
        less = (par - beyond_budget(n, torch.tensor(budget), 4096, 4.0, 1 / 4096)).clamp(min=0)
        if budget > 512:
            assert float(less.max()) == 0.0
        else:
            assert float(n[less > 0].max()) == 321
            assert float(less.max()) == pytest.approx(0.048, abs=1e-3)
    assert load("hbpo").reward.parts[1] == WithinBudget(limit=4096, beta=4.0, alpha=None, lesser=False)


def test_advantages_against_a_loop() -> None:
    """Two groups, budgets in both, an unscored row; the released weight of two."""
    batch = with_row(ragged((2, 4, 7, 8, 3, 5), tools=False), group=[0, 0, 0, 1, 1, 1])
    batch = batch.with_rows({"budget": torch.tensor([4.0, 4, 8, 4, 8, 8]), "par": torch.tensor([1.0, 1, 2, 1, 2, 2])})
    rewards = [1.0, 0.0, 3.0, 2.0, 0.5, 9.0]
    batch = with_row(rewarded(batch, rewards), scored=[1, 1, 1, 1, 1, 0])
    batch = batch.with_steps({"advantage": torch.zeros(6, 8)})
    found = AgainstPar(weight=2.0)(context(method(), grids()), batch).step["advantage"]
    for b, expected in enumerate((2 * (0.5 - 1), 2 * (0.5 - 1), 2 * (3 - 2), 2 * (2 - 1), 2 * (0.5 - 2), 0.0)):
        n = int(batch.lengths[b])
        close(found[b, :n], [expected] * n)
        close(found[b, n:], [0.0] * (8 - n))


def test_budgets_are_shared_evenly_in_every_group() -> None:
    world = LengthWorld(torch.tensor([3, 6, 9]), 16, told=(2.0, 8.0))
    ctx = asking(ToldGroup(size=4, words=Shared((2.0, 8.0))), world, told_table(around(8, 16, 3), 2), count=3)
    rows = sampled(ctx)
    for group in rows.row["group"].unique():
        assert rows.row["budget"][rows.row["group"] == group].tolist() == [2.0, 2.0, 8.0, 8.0]
    assert rows.row["_state"].tolist() == (rows.row["task"] * 3 + torch.tensor([1, 1, 2, 2] * 3)).tolist()
    uneven = sampled(
        asking(ToldGroup(size=3, words=Shared((2.0, 8.0))), world, told_table(around(8, 16, 3), 2), count=3)
    )
    assert uneven.row["budget"].tolist() == [2.0, 2.0, 8.0] * 3
    with pytest.raises(CompositionError, match="at least one"):
        Shared(())


def test_ratios_are_those_under_the_budget_that_was_told() -> None:
    """The policy's log-probability of a row moves with what budgets add to its logits."""
    world = LengthWorld(torch.tensor([3, 6]), 6, told=(2.0, 4.0))
    policy = told_table(torch.zeros(2, 6), 2)
    with torch.no_grad():
        policy.weights[2:] = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    ctx = asking(ToldGroup(size=2, words=Shared((2.0, 4.0))), world, policy, count=2)
    rows = sampled(ctx)
    with torch.no_grad():
        close(policy.score(rows).logp[:, 0], rows.step["behaviour"][:, 0])
    expected: list[Tensor] = []
    for b in range(4):
        logits = policy.weights.detach()[2 + b % 2]
        expected.append(logits.log_softmax(0)[rows.step["_step"][b, 0]])
    close(rows.step["behaviour"][:, 0], torch.stack(expected))


def test_a_run_goes_on_from_its_state() -> None:
    world = LengthWorld(torch.tensor([3, 6, 9]), 16, told=(2.0, 8.0))
    changes = {"selection.count": 3, "sampling.size": 4, "sampling.words.values": (2.0, 8.0)}
    resumed(hbpo(), world, lambda: told_table(around(8, 16, 3), 2), changes=changes)
