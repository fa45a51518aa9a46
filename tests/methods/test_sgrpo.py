"""SGRPO: `reduces_to` of specification 234, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.credit.groups import LeaveOneOut
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.structure import Modes
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.reward.sets import SetWorth, shares, without_each
from policyopt.sampling.sets import SetsGroup
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from references_trees import set_worth
from support import close, context, grids, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


def world():
    return Modes(
        2, 36, 1, lambda strings, task: torch.where(strings[:, 0] < 18, 0.3 + strings[:, 0] / 30, 0.1).double()
    )


def rows(seed=0, count=16):
    """Sets of four in two groups, interleaved."""
    arms = torch.randint(30, (count, 1), generator=torch.Generator().manual_seed(seed))
    batch = world().complete(world().tasks(torch.zeros(count, dtype=torch.int64)), arms)
    index = torch.arange(count)
    columns = {"group": index % 2, "set": 7 - (index % 2) - 2 * (index // 8), "_row": index}
    return batch.with_rows(columns).with_steps({"advantage": torch.zeros(count, 1)})


def judged(part, batch):
    ctx = context(method(), grids(), world())
    return part(ctx, Verified()(ctx, batch))


def diversity(batch):
    def of(members):
        modes = {int(batch.step["_step"][b, 0]) // 3 for b in members} & set(range(6))
        return len(modes) / len(members)

    return of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cold_share_goes_to_the_best_and_the_worst_alone(dtype: torch.dtype) -> None:
    """softmax(z / heat) of heats that exp(z / heat) would leave the range of numbers with."""
    credit = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=dtype)
    counted = torch.tensor([True, True, False, True])
    more, less = shares(credit, torch.zeros(4, dtype=torch.int64), counted, 1e-3)
    close(more, torch.tensor([0.0, 0.0, 0.0, 3.0], dtype=dtype))
    close(less, torch.tensor([3.0, 0.0, 0.0, 0.0], dtype=dtype))


@settings(max_examples=12)
@given(st.integers(0, 60), st.sampled_from([1.0, 0.3]))
def test_sets_are_worth_what_the_loops_say(seed: int, heat: float) -> None:
    batch = rows(seed)
    utility = world().grade(batch).tolist()
    ids, group = batch.row["set"].tolist(), batch.row["group"].tolist()
    expected = set_worth(utility, ids, group, diversity(batch), heat)
    found = judged(SetWorth(0.7, heat), batch)
    close(total_reward(found), [0.3 * u + 0.7 * e for u, (e, _) in zip(utility, expected, strict=True)], 1e-9)
    close(found.row["utility"], utility)
    apart = judged(SetWorth(0.7, heat, into="advantage"), batch)
    close(apart.step["advantage:set"][:, 0], [e for _, e in expected], 1e-9)
    close(total_reward(apart), utility)


def test_without_weight_it_is_leave_one_out_over_the_supergroup() -> None:
    batch, ctx = rows(3), context(method(), grids(), world())
    found = LeaveOneOut()(ctx, judged(SetWorth(0.0), batch)).step["advantage"]
    close(found, LeaveOneOut()(ctx, Verified()(ctx, batch)).step["advantage"])
    assert float(found.abs().max()) > 0.1


@settings(max_examples=12)
@given(st.integers(0, 40))
def test_redistribution_keeps_the_mean_of_a_set(seed: int) -> None:
    """Mean over a set of w (D + ...) is w D: the weights have mean 1."""
    batch = rows(seed)
    reward = total_reward(judged(SetWorth(1.0), batch))
    for one in batch.row["set"].unique().tolist():
        members = (batch.row["set"] == one).nonzero()[:, 0].tolist()
        assert float(reward[members].mean()) == pytest.approx(diversity(batch)(members), abs=1e-10)


def test_equal_contributions_broadcast_the_sets_advantage() -> None:
    """Four different modes against one: D = 1 and 0.25, every member of a set alike."""
    arms = torch.tensor([0, 3, 6, 9, 12, 12, 12, 12])[:, None]
    batch = world().complete(world().tasks(torch.zeros(8, dtype=torch.int64)), arms)
    batch = batch.with_rows({"group": torch.zeros(8, dtype=torch.int64), "set": torch.arange(8) // 4})
    found = judged(SetWorth(into="advantage"), batch).step["advantage:set"][:, 0]
    close(found, [0.75] * 4 + [-0.75] * 4, 1e-12)


def test_a_member_that_adds_diversity_gets_more_of_what_is_good() -> None:
    arms = torch.tensor([0, 1, 3, 6, 20, 21, 22, 0])[:, None]
    batch = world().complete(world().tasks(torch.zeros(8, dtype=torch.int64)), arms)
    batch = batch.with_rows({"group": torch.zeros(8, dtype=torch.int64), "set": torch.arange(8) // 4})
    found = judged(SetWorth(into="advantage"), batch).step["advantage:set"][:, 0].tolist()
    assert found[2] == found[3] > found[0] == found[1] > 0  # the first two are of one mode
    assert found[7] > found[4] == found[5] == found[6]
    assert all(x < 0 for x in found[4:])


def test_a_gate_and_unscored_rows() -> None:
    batch = rows(5)
    gated = judged(SetWorth(1.0, least=10.0), batch)
    close(total_reward(gated), torch.zeros(16))
    ctx = context(method(), grids(), world())
    scored = torch.arange(16) % 5 != 0
    part = judged(SetWorth(1.0), batch[scored])
    whole = SetWorth(1.0)(ctx, Verified()(ctx, batch).with_rows({"scored": scored}))
    close(total_reward(whole)[scored], total_reward(part))
    close(total_reward(whole)[~scored], torch.zeros(int((~scored).sum())))


def test_sets_without_each_of_their_members() -> None:
    row, left_out = without_each(torch.tensor([0, 1, 0, 0]))
    assert sorted(zip(left_out.tolist(), row.tolist(), strict=True)) == [(0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2)]


def test_the_sampler_makes_sets_of_a_group() -> None:
    made = method(sampling=SetsGroup(3, 2), reward=Verified(), selection=Selection(2))
    ctx = context(made, {"policy": Table(numbers(2, 36, seed=1))}, world(), generate)
    batch = made.sampling(ctx, _draw(ctx), _judge(ctx))
    assert batch.row["set"].bincount().tolist() == [2] * 6
    for one in range(6):
        assert len(batch.row["group"][batch.row["set"] == one].unique()) == 1
    assert batch.row["group"].unique(return_counts=True)[1].tolist() == [6, 6]


def test_the_advantage_form_adds_both_levels_in_the_gradient() -> None:
    """(1 - w) (u - leave-one-out mean) + w ([A]+ w+ - [-A]+ w-)."""
    batch = rows(2, 8)
    made = replace(load("sgrpo:sgrpo_advantages"), constraint=(), after=())
    found = first_step(made, grids(), batch, world()).round.credited
    utility = world().grade(batch)
    parts = set_worth(utility.tolist(), batch.row["set"].tolist(), batch.row["group"].tolist(), diversity(batch), 1.0)
    for b in range(8):
        peers = [c for c in range(8) if c != b and batch.row["group"][c] == batch.row["group"][b]]
        centred = float(utility[b] - utility[peers].mean())
        close(found.step["advantage"][b, 0], 0.1 * centred + 0.9 * parts[b][1], 1e-9)


def test_refusals() -> None:
    for broken in (lambda: SetsGroup(1, 4), lambda: SetsGroup(2, 1), lambda: SetWorth(1.5), lambda: SetWorth(heat=0.0)):
        with pytest.raises(CompositionError):
            broken()
    plain = SequenceWorld(2, 36, 1, lambda strings, task: torch.zeros(len(strings)))
    with pytest.raises(CompositionError, match="diversity"):
        SetWorth()(context(method(), grids(), plain), rows())
