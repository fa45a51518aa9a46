"""TreePO: `reduces_to` of specification 138, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.compose import Chain
from policyopt.credit.groups import GroupCentred
from policyopt.credit.trees import NestedGroups, Whitened
from policyopt.methods import load
from policyopt.reward.parts import FromWorld
from policyopt.selection.tasks import EveryRow, Selection
from support import close, context, grids, method, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

SHARED = torch.tensor([[1] * 2 + [2] * 11, [1] * 2 + [3] * 11, [4] * 13, [1] * 2 + [2] * 4 + [5] * 7])


def rows(node=SHARED, group=(0, 0, 0, 0)):
    batch = with_row(ragged((4, 2, 7, 13)), group=group)
    reward = torch.where(batch.own, batch.step["reward"], 0.0)
    return batch.with_steps({"node": torch.where(batch.own, node, 0), "reward": reward})


def small(**parts):
    made = load("treepo")
    selection = Selection(count=4, rows=EveryRow())
    return replace(made, reward=FromWorld(), selection=selection, update=replace(made.update, minibatches=1), **parts)


def gradient(made, batch):
    return first_step(made, grids(), batch).gradient


def test_no_shared_segment_is_the_centred_reward_whitened() -> None:
    """REINFORCE with a group baseline and batch whitening, in the gradient."""
    batch = rows(torch.arange(1, 5)[:, None].expand(4, 13))
    found = gradient(small(), batch)
    plain = gradient(small(credit=Chain((GroupCentred(), Whitened()))), batch)
    close(found, plain, 1e-12)
    assert float(found.abs().max()) > 1e-3
    assert float((gradient(small(), rows()) - found).abs().max()) > 1e-3


def test_nested_groups_by_hand() -> None:
    """Rewards 1, 0, 0, 1 of rows 1-2, 1-3, 4 and 1-2-5: groups {0 1 2 3}, {0 1 3}, {0 3}."""
    batch = rows().with_steps({"reward": torch.zeros(4, 13)})
    reward = torch.zeros(4, 13)
    reward[[0, 3], [0, 0]] = 1.0
    batch = batch.with_steps({"reward": reward})
    ctx = context(method(), grids())
    found = NestedGroups()(ctx, batch).step["advantage"][:, 0]
    first = (4 * 0.5 + 3 / 3 + 2 * 0.0) / 9
    second = (4 * -0.5 + 3 * -2 / 3) / 7
    close(found, [first, second, -0.5, first])
    simple = NestedGroups("simple")(ctx, batch).step["advantage"][:, 0]
    close(simple, [(0.5 + 1 / 3 + 0.0) / 3, (-0.5 - 2 / 3) / 2, -0.5, (0.5 + 1 / 3) / 3])
    skipped = NestedGroups("size", skip_flat=True)(ctx, batch).step["advantage"][:, 0]
    close(skipped, [(4 * 0.5 + 3 / 3) / 7, second, -0.5, (4 * 0.5 + 3 / 3) / 7])


def test_a_reward_of_the_first_segment_alone_keeps_the_sign_and_scales_by_the_share_of_the_root() -> None:
    """Then deeper groups are flat: A = n_0 a_0 / sum_d n_d."""
    batch = rows().with_steps({"reward": torch.zeros(4, 13)})
    reward = torch.zeros(4, 13)
    reward[[0, 1, 3], [0, 0, 0]] = 1.0
    batch, ctx = batch.with_steps({"reward": reward}), context(method(), grids())
    found = NestedGroups()(ctx, batch).step["advantage"][:, 0]
    root = GroupCentred()(ctx, batch).step["advantage"][:, 0]
    close(found, root * torch.tensor([4 / 9, 4 / 7, 1.0, 4 / 9]))


def test_whitening_counts_a_leaf_once_per_token_and_moves_zeros() -> None:
    batch, ctx = rows(), context(method(), grids())
    raw = torch.where(batch.own, torch.tensor([1.0, 0.0, -2.0, 0.0])[:, None], 0.0)
    found = Whitened()(ctx, batch.with_steps({"advantage": raw})).step["advantage"]
    inside = raw[batch.trained]
    close(found[batch.trained], (inside - inside.mean()) / (inside.var() + 1e-8).sqrt())
    assert float(found[1, 0]) != 0.0
    assert float(found[~batch.trained].abs().max()) == 0.0


def test_equal_rewards_are_exactly_zero_and_uninformative_groups_leave() -> None:
    batch = rows(group=(0, 0, 1, 1)).with_steps({"reward": torch.zeros(4, 13)})
    equal = torch.zeros(4, 13)
    equal[:, 0] = 0.3
    batch, ctx = batch.with_steps({"reward": equal}), context(method(), grids())
    made = load("treepo")
    close(made.credit(ctx, batch).step["advantage"], torch.zeros(4, 13))
    assert len(made.selection.keep(ctx, made.credit(ctx, batch))) == 0


def test_groups_that_are_dropped_do_not_count_in_the_whitening() -> None:
    """Advantages of the rows that are kept are those of a round without the others."""
    batch, ctx = rows(group=(0, 0, 0, 1)), context(method(), grids())
    reward = torch.zeros(4, 13)
    reward[:3, 0] = torch.tensor([1.0, 0.0, 0.0])
    reward[3, 0] = 1.0
    batch = batch.with_steps({"reward": reward})
    made = load("treepo")
    found = made.selection.keep(ctx, made.credit(ctx, batch))
    alone = made.credit(ctx, batch[:3])
    assert len(found) == 3
    close(found.step["advantage"], alone.step["advantage"])
    inside = found.step["advantage"][found.trained]
    close(inside.var(), 1.0, 1e-6)


def test_published_settings() -> None:
    made = load("treepo")
    assert (made.sampling.size, made.sampling.steps, made.sampling.depth) == (16, 512, 14)
    assert (made.sampling.first, made.sampling.width) == ((2, 8), 2)
    loss = made.objective[0].loss
    assert (loss.clip_low, loss.clip_high) == (0.2, 0.28)
