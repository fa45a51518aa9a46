"""Process supervision for programs: `reduces_to` of specification 84, labels by binary search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import references_critics as loops
from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Stage, Term
from policyopt.credit.tokens import PrefixLabels, labelled_steps
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.successors import StepRegression
from policyopt.ops.sequences import on_last
from policyopt.options import override
from policyopt.policies.tabular import Table, TableCritic
from policyopt.reward.dense import TurnReward
from policyopt.run import Run
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import SequenceWorld
from support import Grid, close, context, full_step, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")


def turned(batch, length: int = 3):
    return batch.with_steps({"turn": (torch.arange(batch.steps) // length).expand(len(batch), -1)})


class Lines(SequenceWorld):
    """A row is right if all its symbols are 1; a turn is two symbols. Counts what is graded."""

    asked = 0

    def grade(self, batch):
        Lines.asked += len(batch)
        return (self.strings(batch) == 1).all(1).double()


def labels(strings, count=4, length=2):
    """Of a policy that always goes on with 1."""
    world = Lines(1, 2, 8, lambda strings, task: strings[:, 0])
    table = torch.zeros(8, 2)
    table[:, 1] = 40.0
    ctx = context(method(), {"policy": Table(table)}, world, generate)
    rows = turned(world.complete(world.tasks(torch.zeros(len(strings), dtype=torch.int64)), strings), length)
    rows = rows.with_steps({"reward": on_last(rows, (strings == 1).all(1).double())})
    Lines.asked = 0
    return PrefixLabels(count)(ctx, rows)


@settings(max_examples=12)
@given(st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_labels_mark_the_last_prefix_that_can_be_completed(symbols: list[int]) -> None:
    """A prefix is good as long as it holds no 0: monotone, so binary search is exact."""
    found = labels(torch.tensor([symbols]))
    first = symbols.index(0) if 0 in symbols else 8
    expected = [0.0 if t % 2 == 0 else (1.0 if t < first else -1.0) for t in range(8)]
    close(found.step["label"], [expected])
    assert found.step["labelled"].tolist() == [[t % 2 == 1 for t in range(8)]]


def test_few_completions_are_asked_for() -> None:
    """4 lines, the whole row known: 3 open prefixes need at most 2 questions of 4 completions."""
    labels(torch.tensor([[1, 1, 1, 1, 1, 0, 1, 1]]))
    assert Lines.asked == 8
    labels(torch.ones(3, 8, dtype=torch.int64))
    assert Lines.asked == 0


def test_regression_equals_the_loops_on_labelled_steps() -> None:
    batch = ragged().with_steps({"label": numbers(4, 13, seed=8), "labelled": numbers(4, 13, seed=9) > 0})
    term = Term("a", StepRegression("critic", "value"), TokenMean(), mask=labelled_steps, trains="critic")
    batch = batch.with_steps({"value": batch.step["label"]})
    loss, slope = full_step(context(method(term), grids()), batch, model="critic")
    mask = batch.trained & batch.step["labelled"]
    weights = (mask.double() / mask.sum()).tolist()
    values = grids()["critic"].values.detach()[:4, :14].tolist()
    expected, slopes = loops.regression(values, mask.tolist(), batch.step["label"].tolist(), weights)
    close(loss, sum(w * x for ws, xs in zip(weights, expected, strict=True) for w, x in zip(ws, xs, strict=True)))
    close(slope[:4, :14], slopes)


def test_rewards_of_lines_by_hand_and_their_bound() -> None:
    """Three lines: w = 0.5, 3 (cut to 1) and -0.25, over 3, times 0.6; the rows' own reward is kept."""
    batch = rewarded(turned(ragged((6,), tools=False), 2), [2.0])
    values = torch.zeros(8, 105)
    values[0, [2, 4, 6]] = torch.tensor([0.5, 3.0, -0.25])
    ctx = context(method(), {**grids(), "critic": Grid(values=values)})
    found = TurnReward(0.6, critic="critic")(ctx, batch).step["reward"]
    close(found, [[2.0, 0.1, 0.0, 0.2, 0.0, -0.05]])
    whole = TurnReward(0.6, critic="critic", by_length=False)(ctx, batch).step["reward"]
    close(whole, [[2.0, 0.3, 0.0, 0.6, 0.0, -0.15]])


@given(st.integers(1, 8), st.integers(0, 30))
def test_line_rewards_never_add_up_to_more_than_their_weight(length: int, seed: int) -> None:
    batch = turned(rewarded(ragged(seed=seed), [0.0] * 4), length)
    ctx = context(method(), {**grids(), "critic": Grid(values=5 * numbers(8, 105, seed=seed))})
    total = TurnReward(0.3, critic="critic")(ctx, batch).step["reward"].sum(1)
    assert float(total.abs().max()) <= 0.3 + 1e-12


def test_without_weight_and_with_a_new_critic_it_is_ppo() -> None:
    made = override(load("prm_code_rl"), {"reward.turn_reward.weight": 0.0})
    models = {**grids(), "process": Grid(values=numbers(8, 105, seed=3))}
    batch = turned(rewarded(ragged(), [0.0] * 4))
    found = first_step(made, models, batch, Grades([0.5, 2.0, -1.0, 4.0])).gradient
    ppo = first_step(load("ppo"), grids(), batch, Grades([0.5, 2.0, -1.0, 4.0])).gradient
    assert float(found.abs().max()) > 1e-3
    close(found, ppo)


def test_the_critic_begins_as_the_process_model_and_goes_its_own_way() -> None:
    run = Run({"policy": Table(torch.zeros(8, 2))}, None, generate)
    run.enter(Stage(load("prm_code_rl:prm_code_rl_labels"), 1))
    with torch.no_grad():
        run.models["process"].values.copy_(numbers(8))
    run.step = 1
    run.enter(Stage(load("prm_code_rl"), 1, start=1))
    critic = run.models["critic"]
    assert isinstance(critic, TableCritic)
    close(critic.values, numbers(8).float(), 1e-6)
    with torch.no_grad():
        critic.values.add_(1.0)
    close(run.models["process"].values, numbers(8).float(), 1e-6)
    assert critic.values.requires_grad


def test_a_world_that_can_not_go_back_is_refused() -> None:
    batch = turned(rewarded(ragged(), [0.0] * 4))
    with pytest.raises(CompositionError, match="rewind"):
        PrefixLabels()(context(method(), grids(), Grades([0.0] * 4)), batch)
