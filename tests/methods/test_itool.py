"""iTool: `reduces_to` of specification 50."""

import math
from dataclasses import replace

import pytest
import torch

from asked import asking, resumed, sampled
from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.reward.checks import Checked
from policyopt.sampling.siblings import Place, RolloutSiblings
from policyopt.selection.deficient import PERPLEXITY, DeficientTasks, Perplexities
from policyopt.selection.tasks import Selection, in_epochs
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from support import close, grid, grids, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")
TARGET = torch.tensor([[0, 1], [1, 2], [2, 0], [2, 2]])


def calls(limit=2):
    def checked(strings, task):
        return (strings == TARGET[task, : strings.shape[1]]).double()

    return SequenceWorld(4, 3, limit, lambda s, t: torch.zeros(len(t)), recordings=TARGET, checker=checked)


def ask(part, table=None, count=4, **parts):
    table = numbers(8, 3, seed=2) if table is None else table
    return asking(part, calls(), Table(table), count=count, reward=Checked(), **parts)


def test_the_loss_is_simpo_with_the_stated_constants() -> None:
    """-log sigma(2 mean log pi(y_w) - 2 mean log pi(y_l) - 1), by the whole method."""
    models, batch = {"policy": grid(0)}, ragged()
    logp = models["policy"].logp[:4, :13]
    mean = torch.where(batch.trained, logp, 0.0).sum(1) / batch.trained.sum(1)
    loss = -torch.nn.functional.logsigmoid(2 * mean[:2] - 2 * mean[2:] - 1).mean()
    (slope,) = torch.autograd.grad(loss, models["policy"].logp)
    made = replace(load("itool"), before=())
    made = replace(made, reward=load("dpo").reward, selection=Selection(4))
    found = first_step(made, {"policy": grid(0)}, batch)
    close(found.gradient, slope)
    close(found.gradient, first_step(load("dpo:simpo"), {"policy": grid(0)}, ragged()).gradient)


def test_one_level_of_two_children_is_the_better_of_two_whole_answers() -> None:
    part = RolloutSiblings(iterations=1, branching=(2,), depth=1, steps=2, length_power=0.0)
    batch = sampled(ask(part))
    found = {}
    for one in batch.row["pair"].unique():
        rows = batch[batch.row["pair"] == one]
        share = (rows.step["_step"] == TARGET[rows.row["task"]]).double().mean(1)
        assert rows.row["rank"].tolist() == [0, 1]
        assert share[0] > share[1]
        found[int(one)] = share
    assert found


def test_q_is_the_mean_reward_of_the_rollouts_through_a_place() -> None:
    part = RolloutSiblings(iterations=5, branching=(3, 2), depth=2, steps=1, length_power=0.0)
    ctx = ask(part)
    rolled = []
    judge = _judge(ctx)

    def watched(batch):
        rolled.append(judge(batch))
        return rolled[-1]

    begun = ctx.world.start(_draw(ctx)())
    roots = [Place(begun, n) for n in range(len(begun))]
    pairs = part.found(ctx, roots, watched)
    for root in roots:
        assert root.visits >= len(root.children) >= 1
        rows = torch.cat([b.step["reward"].sum(1)[b.row["group"] == root.row.row["group"]] for b in rolled])
        if root.visits == len(rows):  # no finished leaf was counted again
            close(root.value, rows.mean())
        total = sum(child.q * child.visits for child in root.children)
        close(total / sum(child.visits for child in root.children), root.value)
    for won, lost in pairs:
        assert won.parent is lost.parent
        assert won.q == max(c.q for c in won.parent.children) > lost.q == min(c.q for c in won.parent.children)


def test_a_finished_leaf_that_is_met_again_counts_again() -> None:
    part = RolloutSiblings(iterations=4, branching=(2,), depth=1, steps=2, length_power=0.0)
    ctx = ask(part)
    begun = ctx.world.start(_draw(ctx)())
    roots = [Place(begun, n) for n in range(len(begun))]
    part.found(ctx, roots, _judge(ctx))
    assert [root.visits for root in roots] == [len(root.children) + 3 for root in roots]


def test_pairs_that_are_hardly_apart_are_left_out() -> None:
    few = sampled(ask(RolloutSiblings(iterations=3, depth=2, steps=1, margin=0.6)))
    many = sampled(ask(RolloutSiblings(iterations=3, depth=2, steps=1)))
    assert int((few.row["rank"] == 0).sum()) < int((many.row["rank"] == 0).sum())
    with pytest.raises(CompositionError, match="margin"):
        RolloutSiblings(margin=-0.1)


def test_deficiency_is_the_perplexity_of_the_recorded_answer() -> None:
    table = numbers(8, 3, seed=5)
    ctx = ask(RolloutSiblings(), table)
    Perplexities(rows=3)(ctx)
    logp = table.log_softmax(1).view(4, 2, 3).gather(2, TARGET[..., None])[..., 0]
    expected = (-logp.mean(1)).exp()
    close(ctx.run.cells["tasks"][PERPLEXITY], expected)
    ctx.run.drawn = 0
    drawn = DeficientTasks(0.3)(ctx, 6).id
    assert set(drawn.tolist()) == set(expected.argsort(descending=True)[: math.ceil(1.2)].tolist())
    assert set(DeficientTasks(0.75)(ctx, 3).id.tolist()) == set(expected.argsort(descending=True)[:3].tolist())
    assert set(DeficientTasks(1.0)(ctx, 4).id.tolist()) == {0, 1, 2, 3}


def test_ties_are_taken_by_position_and_notes_are_as_old_as_asked_for() -> None:
    ctx = ask(RolloutSiblings(), torch.zeros(8, 3))
    hook = Perplexities(every=2)
    hook(ctx)
    assert set(DeficientTasks(0.5)(ctx, 8).id.tolist()) == {0, 1}
    ctx.run.step = 1
    ctx.models["policy"].logits.data[0, 0] = -9.0
    hook(ctx)
    close(ctx.run.cells["tasks"][PERPLEXITY], torch.full((4,), 3.0))
    ctx.run.step = 2
    hook(ctx)
    assert float(ctx.run.cells["tasks"][PERPLEXITY][0]) > 3.5
    with pytest.raises(CompositionError, match="share"):
        DeficientTasks(0.0)


def test_an_epoch_asks_every_deficient_task_once() -> None:
    ctx = ask(RolloutSiblings())
    ids = torch.tensor([1, 2, 3])
    assert sorted(in_epochs(ctx, ids, 3, "x").id.tolist()) == [1, 2, 3]
    assert sorted(in_epochs(ctx, ids, 6, "x").id.tolist()) == [1, 1, 2, 2, 3, 3]


def test_zero_rounds_are_easy_to_hard_fine_tuning() -> None:
    made, plain = load("itool:itool_warmup"), load("sft")
    assert made.objective == plain.objective
    close(first_step(made, grids(), ragged()).gradient, first_step(plain, grids(), ragged()).gradient)


def test_it_goes_on_bitwise_after_a_restart() -> None:
    changes = {"selection.count": 4, "sampling.steps": 1, "sampling.iterations": 2, "before.every": 2}
    resumed(load("itool"), calls(), lambda: Table(numbers(8, 3, seed=2)), changes=changes)
