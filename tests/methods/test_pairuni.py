"""PairUni: `reduces_to` of specification 32, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.credit.pairs import SimilarityWeighted
from policyopt.evaluation.experiments._pairs import PairedPoints
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.selection.pairs import PairedTasks
from policyopt.types import Tasks
from support import close, context, grids, method, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def rows(similarity, group=(0, 0, 1, 1)):
    batch = with_row(ragged((4, 2, 7, 13)), group=group)
    batch = batch.with_steps({"reward": torch.where(batch.own, batch.step["reward"], 0.0)})
    return batch.with_rows({"similarity": torch.tensor(similarity)})


def gradient(key, batch):
    return first_step(replace(load(key), reward=FromWorld(), constraint=()), grids(), batch).gradient


def test_pairs_made_for_each_other_are_grpo() -> None:
    batch = rows([1.0, 1.0, 1.0, 1.0])
    close(gradient("pairuni", batch), gradient("grpo", batch))
    assert float(gradient("grpo", batch).abs().max()) > 1e-3


def test_a_pairs_gradient_is_linear_in_its_weight() -> None:
    """Weights sqrt(0.25) and sqrt(0.81) of the two pairs (here: groups)."""
    whole, some = gradient("grpo", rows([1.0] * 4)), gradient("pairuni", rows([0.25, 0.25, 0.81, 0.81]))
    close(some[:2], 0.5 * whole[:2])
    close(some[2:4], 0.9 * whole[2:4])


def test_weights_by_hand() -> None:
    """Cosines below 0 count nothing, and none counts more than 1."""
    batch = rows([-0.4, 0.0, 0.49, 1.7]).with_steps({"advantage": torch.ones(4, 13)})
    ctx = context(method(), grids())
    close(SimilarityWeighted()(ctx, batch).step["advantage"][:, 0], [0.0, 0.0, 0.7, 1.0])
    close(SimilarityWeighted(power=1.0)(ctx, batch).step["advantage"][:, 0], [0.0, 0.0, 0.49, 1.0])
    close(SimilarityWeighted(power=0.0)(ctx, batch).step["advantage"], torch.ones(4, 13))


def world():
    return PairedPoints(10, 2, 1, lambda strings, task: strings[:, 0].double(), similarity=torch.linspace(0.2, 1, 5))


def drawn(count, already=0, of=None):
    ctx = context(method(), {"policy": Table(torch.zeros(10, 2))}, of or world())
    ctx.run.drawn = already
    return PairedTasks()(ctx, count)


def test_tasks_are_drawn_in_pairs_once_an_epoch() -> None:
    tasks = drawn(10)
    assert tasks.id.view(-1, 2).diff(dim=1).flatten().tolist() == [1] * 5
    assert sorted(tasks.id.tolist()) == list(range(10))
    close(tasks.row["similarity"].view(-1, 2)[:, 0], torch.linspace(0.2, 1, 5)[tasks.row["pairing"].view(-1, 2)[:, 0]])
    assert torch.equal(tasks.row["similarity"][::2], tasks.row["similarity"][1::2])


def test_the_order_is_a_function_of_the_position() -> None:
    whole, later = drawn(20), drawn(12, already=8)
    assert whole.id.tolist()[8:] == later.id.tolist()
    assert whole.id.tolist()[:10] != whole.id.tolist()[10:]


def test_groups_never_mix_the_two_tasks() -> None:
    made = load("pairuni")
    tasks = drawn(4)
    rows_ = world().start(Tasks(tasks.id, {**tasks.row, "group": torch.arange(4)}).repeat(3))
    assert all(len(rows_.row["task"][rows_.row["group"] == g].unique()) == 1 for g in range(4))
    assert made.credit.parts[0] == load("grpo").credit


def test_refusals() -> None:
    with pytest.raises(CompositionError, match="even"):
        drawn(3)
    with pytest.raises(CompositionError, match="task_pairs"):
        drawn(4, of=SimpleNamespace(size=3))
    with pytest.raises(CompositionError, match="PairedTasks"):
        SimilarityWeighted()(context(method(), grids()), ragged())
    with pytest.raises(CompositionError, match="power"):
        SimilarityWeighted(-1.0)
