"""Sampling of trees and probes, and the credit of their segments."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.compose import CompositionError
from policyopt.credit.groups import GroupCentred
from policyopt.credit.trees import EdgesOnce, NestedGroups, NodeDifference, UncertainSteps, Whitened
from policyopt.credit.turns import AddedAdvantages
from policyopt.engines.plain import generate
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.sampling.trees import BudgetedTree, ProbedGroup, TreeGroup
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.types import Batch
from policyopt.worlds.sequences import SequenceWorld
from references_trees import differences, nested, paths
from support import close, context, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def worth(strings, task):
    return (strings * torch.arange(1, strings.shape[1] + 1)).clamp(min=0).double().sum(1) % 7 / 7


def sampled(part, end=0, limit=9, policy=None, world=None, seed=0) -> tuple[Batch, SimpleNamespace]:
    world = world or SequenceWorld(3, 4, limit, worth, end=end)
    policy = policy or Table(numbers(3 * limit, 4, seed=4) - torch.tensor([1.0, 0.0, 0.0, 0.0]))
    made = method(sampling=part, reward=Verified(), selection=Selection(3))
    ctx = context(made, {"policy": policy}, world, generate, seed)
    return part(ctx, _draw(ctx), _judge(ctx)), ctx


def check_tree(batch: Batch) -> None:
    """Rows that share a node share everything up to its end; others do not share it."""
    group, columns = batch.row["group"].tolist(), [batch.step[n].tolist() for n in ("node", "_step", "behaviour")]
    holders: dict[int, list[tuple[int, int]]] = {}
    for b, t in batch.own.nonzero().tolist():
        holders.setdefault(columns[0][b][t], []).append((b, t))
    for held in holders.values():
        rows = {b: max(t for c, t in held if c == b) for b, _ in held}
        assert len({(group[b], end) for b, end in rows.items()}) == 1
        assert len({str([column[b][: end + 1] for column in columns]) for b, end in rows.items()}) == 1
    assert bool((batch.step["node"] > 0)[batch.own].all())
    assert bool(batch.done.all())


def by_group(batch: Batch, formula) -> list:
    out = [None] * len(batch)
    routes, reward, scored = paths(batch), total_reward(batch).tolist(), batch.row["scored"].tolist()
    for one in batch.row["group"].unique().tolist():
        rows = [b for b in range(len(batch)) if int(batch.row["group"][b]) == one]
        found = formula(*([column[b] for b in rows] for column in (routes, reward, scored)))
        for b, value in zip(rows, found, strict=True):
            out[b] = value
    return out


@settings(max_examples=9)
@given(st.integers(0, 8))
def test_values_of_a_sampled_tree_are_those_of_the_loops(seed: int) -> None:
    batch, ctx = sampled(TreeGroup((2, 3), 3), seed=seed)
    check_tree(batch)
    batch = batch.with_rows({"scored": torch.arange(len(batch)) % 5 != seed % 5})
    routes = paths(batch)
    for scaled in (False, True):
        found = NodeDifference(scaled, 0.1)(ctx, batch).step["advantage"]
        values = by_group(batch, lambda p, w, s, e=0.1 if scaled else None: differences(p, w, s, e))
        for b, t in batch.own.nonzero().tolist():
            close(found[b, t], values[b][routes[b].index(int(batch.step["node"][b, t]))], 1e-10)
    for by_size, skip in ((True, False), (False, True)):
        found = NestedGroups("size" if by_size else "simple", skip)(ctx, batch).step["advantage"]
        values = by_group(batch, lambda p, w, s, o=(by_size, skip): nested(p, w, s, by_size=o[0], skip=o[1]))
        for b, t in batch.own.nonzero().tolist():
            close(found[b, t], values[b], 1e-10)


def test_a_tree_has_its_branches_and_segments() -> None:
    batch, _ = sampled(TreeGroup((2, 3, 1), 3), end=None)
    assert len(batch) == 3 * 6
    assert {len(path) for path in paths(batch)} == {3}
    for path in paths(batch):
        assert [sum(other[:d] == path[:d] for other in paths(batch)) for d in (1, 2, 3)] == [3, 1, 1]
    assert bool((batch.step["node"][:, :3] == batch.step["node"][:, :1]).all())


@settings(max_examples=9)
@given(st.integers(0, 8), st.sampled_from(["equal", "likely", "unlikely"]), st.sampled_from(["random", "unlikely"]))
def test_a_budgeted_tree_has_as_many_leaves_as_asked(seed: int, shares: str, restart: str) -> None:
    part = BudgetedTree(7, steps=2, depth=4, first=(2, 4), shares=shares, restart=restart)  # type: ignore[arg-type]
    batch, _ = sampled(part, seed=seed)
    check_tree(batch)
    assert torch.bincount(batch.row["group"].unique(return_inverse=True)[1]).tolist() == [7, 7, 7]
    # At most `width` branches of a segment, but for those that restarts added.
    first = [len({p[0] for p, g in zip(paths(batch), batch.row["group"].tolist(), strict=True) if g == one}) for one in
             batch.row["group"].unique().tolist()]  # fmt: skip
    assert min(first) >= 2


def test_without_shared_segments_all_rows_are_one_group() -> None:
    """A width of G: independent rows, and nested credit is the centred reward."""
    batch, ctx = sampled(BudgetedTree(4, steps=3, first=(4, 4)))
    assert all(len(set(column)) == len(column) for column in zip(*[p[:1] for p in paths(batch)], strict=True))
    close(NestedGroups()(ctx, batch).step["advantage"], GroupCentred()(ctx, batch).step["advantage"])


def test_differences_from_a_nested_group_have_mean_zero() -> None:
    """sum over the group of R - mean R; a group of one leaf has advantage 0."""
    batch, ctx = sampled(BudgetedTree(1, steps=3, first=(1, 1)))
    close(NestedGroups()(ctx, batch).step["advantage"], torch.zeros(3, batch.steps))


def test_probes_telescope_for_any_cuts_and_any_number() -> None:
    """sum over segments of A = R - V(s_0)."""
    for probes, every in ((1, 1), (3, 2), (2, 4)):
        batch, ctx = sampled(ProbedGroup(2, probes, every, most=0.6))
        found = AddedAdvantages({"value_after": 1.0, "value_before": -1.0})(ctx, batch).step["advantage"]
        segment = batch.step["segment"]
        for b in range(len(batch)):
            own = batch.own[b].nonzero()[:, 0].tolist()
            starts = [t for n, t in enumerate(own) if n == 0 or segment[b, t] != segment[b, own[n - 1]]]
            total = sum(float(found[b, t]) for t in starts)
            assert total == pytest.approx(float(total_reward(batch)[b] - batch.step["value_before"][b, own[0]]))
            unsure = [t for t in own if float(batch.step["behaviour"][b, t].exp()) < 0.6]
            assert starts == sorted({own[0], *unsure[every - 1 :: every]})


def test_values_of_probes_are_exact_where_nothing_is_left_to_chance() -> None:
    """A sure policy: every probe is the row itself, so no segment changes the value."""
    sure = Table(50.0 * torch.nn.functional.one_hot(torch.arange(27) % 3 + 1, 4).double())
    batch, _ = sampled(ProbedGroup(1, 2, every=1, most=1.0), policy=sure, end=None)
    close(batch.step["value_before"], batch.step["value_after"])
    close(batch.step["value_before"][:, 0], total_reward(batch))


def test_one_probe_of_every_step_is_the_difference_of_neighbouring_rollouts() -> None:
    """One step a segment: value_after is the value before the next step, and the reward at the end."""
    batch, _ = sampled(ProbedGroup(2, 4, every=1, most=1.0), end=None)
    before, after = batch.step["value_before"], batch.step["value_after"]
    # The first unsure step begins the second segment, before which there is nothing: every step is its own segment.
    close(after[:, :-1], before[:, 1:])
    close(after[:, -1], total_reward(batch))


def test_a_failed_grader_of_probes_leaves_the_row_unscored() -> None:
    calls = []

    def sometimes(strings, task):
        calls.append(len(strings))
        value = worth(strings, task)
        return torch.where(task == 1, torch.nan, value) if len(calls) > 1 else value

    batch, _ = sampled(ProbedGroup(1, 2), world=SequenceWorld(3, 4, 9, sometimes, end=0))
    assert batch.row["scored"].tolist() == [bool(task != 1) for task in batch.row["task"]]
    assert not bool(batch.trained[batch.row["task"] == 1].any())


def test_shared_segments_are_trained_once() -> None:
    batch, ctx = sampled(TreeGroup((2, 2), 3))
    batch = batch.with_rows({"scored": torch.arange(len(batch)) != 0})
    batch = NodeDifference()(ctx, batch)
    batch = batch.with_steps({"train": batch.step["train"] & batch.row["scored"][:, None]})
    once = EdgesOnce(flat=True)(ctx, batch)
    seen = [int(n) for n in batch.step["node"][batch.trained].unique()]
    for node in seen:
        rows = ((batch.step["node"] == node) & once.trained).any(1).nonzero()[:, 0].tolist()
        holders = ((batch.step["node"] == node) & batch.trained).any(1).nonzero()[:, 0].tolist()
        assert rows == holders[:1]
    fewer = EdgesOnce()(ctx, batch)
    assert bool((fewer.trained == (once.trained & (batch.step["advantage"] != 0))).all())


def test_refusals() -> None:
    for broken in (
        lambda: TreeGroup((), 3), lambda: TreeGroup((2,), 0), lambda: BudgetedTree(first=(3, 2)),
        lambda: BudgetedTree(heat=0.0), lambda: ProbedGroup(probes=0), lambda: UncertainSteps(0.0),
        lambda: Whitened(ddof=2), lambda: NodeDifference(epsilon=-1.0),
    ):  # fmt: skip
        with pytest.raises(CompositionError):
            broken()

    class Forward:
        """A world that can not go back."""

        size = 3

        def __init__(self):
            self.inner = SequenceWorld(3, 4, 9, worth)

        def __getattr__(self, name):
            if name == "rewind":
                raise AttributeError(name)
            return getattr(self.inner, name)

    with pytest.raises(CompositionError, match="rewind"):
        sampled(ProbedGroup(1), world=Forward())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_values_of_rounded_means_are_no_advantage(dtype: torch.dtype) -> None:
    """Seven first segments of three leaves each, one of which is right: all nodes are worth 1/3, whose mean is rounded.
    Segments that lead to any of them are dropped; those that lead to the leaves are not."""
    width, leaves = 7, 3
    batch = ragged((2,) * (width * leaves), tools=False)
    first = torch.arange(width).repeat_interleave(leaves) + 1
    last = width + 1 + torch.arange(width * leaves)
    reward = torch.zeros(width * leaves, 2, dtype=dtype)
    reward[::leaves, 1] = 1.0
    batch = batch.with_rows({"group": torch.zeros_like(first), "scored": torch.ones_like(first).bool()})
    batch = batch.with_steps({"node": torch.stack([first, last], 1), "reward": reward})
    ctx = context(method(), grids())
    for part in (NodeDifference(), NodeDifference(scaled=True)):
        found = part(ctx, batch)
        assert found.step["advantage"][:, 0].tolist() == [0.0] * width * leaves
        assert float(found.step["advantage"][:, 1].abs().min()) > 0.3
        dropped = EdgesOnce()(ctx, found).trained
        assert not bool(dropped[:, 0].any())
        assert bool(dropped[:, 1].all())


def test_equal_rewards_teach_nothing() -> None:
    batch, ctx = sampled(TreeGroup((2, 2), 3), world=SequenceWorld(3, 4, 9, lambda s, t: torch.full((len(s),), 0.3)))
    for part in (NodeDifference(), NodeDifference(scaled=True), NestedGroups()):
        found = part(ctx, batch)
        assert float(found.step["advantage"].abs().max()) < 1e-15
        close(Whitened()(ctx, found.with_steps({"advantage": torch.zeros_like(found.step["advantage"])})).step[
            "advantage"], torch.zeros(len(batch), batch.steps))  # fmt: skip
    assert replace(TreeGroup(), steps=3).branching == (6, 6, 6)
