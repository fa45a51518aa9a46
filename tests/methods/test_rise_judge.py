"""RISE-Judge: `reduces_to` of specification 34, each identity a test."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.annotators import Aspects
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.selection.agreement import RightBothWays
from policyopt.train import rounds
from support import close, context, grid, method, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")
GRADES = [1.0, 0.0, 0.0, 1.0]


def models() -> dict[str, Any]:
    return {"policy": grid(0), "reference": grid(2)}


def test_without_the_likelihood_it_is_dpo_on_verdicts() -> None:
    made = override(load("rise_judge"), {"objective.likelihood.weight": 0.0})
    found = first_step(made, models(), ragged(), Grades(GRADES))
    expected = first_step(load("dpo:dpo_online"), models(), ragged(), Grades(GRADES))
    assert float(expected.gradient.abs().max()) > 1e-3
    close(found.gradient, expected.gradient)


def test_the_likelihood_term_is_the_mean_over_right_judgments_of_minus_log_p_per_step() -> None:
    batch = ragged()
    with_term, without = (
        first_step(override(load("rise_judge"), {"objective.likelihood.weight": w}), models(), batch, Grades(GRADES))
        for w in (0.7, 0.0)
    )
    expected = torch.zeros(4, 13)
    for row in (0, 3):
        steps = batch.trained[row].nonzero()[:, 0]
        expected[row, steps] = -0.7 / len(steps) / 2
    close((with_term.gradient - without.gradient)[:4, :13], expected)


def test_comparisons_that_are_always_right_or_always_wrong_teach_nothing() -> None:
    done = first_step(load("rise_judge"), models(), ragged(), Grades([1.0, 0.0, 1.0, 0.0]))
    close(done.gradient, torch.zeros_like(done.gradient))


def judged(evidence: Any = None, right: Any = None, strings: Any = None) -> Aspects:
    """Two comparisons of two aspects, in both orders."""
    evidence = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 1]]).bool() if evidence is None else evidence
    right = torch.tensor([0, 1, 1, 0]) if right is None else right
    return Aspects(4, 2, 2, lambda s, t: (s[:, 1] == right[t]).double(), evidence=evidence, recordings=strings)


def test_warm_up_keeps_comparisons_that_are_right_in_both_orders() -> None:
    world = judged(strings=torch.tensor([[0, 0], [0, 1], [1, 1], [1, 1]]))  # the last is wrong
    tasks = world.tasks(torch.tensor([2, 0, 3, 1]))
    rows = world.recorded(tasks)
    rows = rewarded(rows, world.grade(rows))
    ctx = context(method(), {"policy": grid(0)}, world)
    kept = RightBothWays()(ctx, rows)
    assert kept.row["task"].tolist() == [0, 1]
    assert len(RightBothWays()(ctx, rows[torch.tensor([1])])) == 0  # one order alone says nothing
    assert len(RightBothWays(right=2.0)(ctx, rows)) == 0
    thrice = world.complete(world.tasks(torch.tensor([0, 1, 0])), torch.tensor([[0, 0], [0, 1], [1, 1]]))
    thrice = rewarded(thrice, world.grade(thrice))
    assert len(RightBothWays()(ctx, thrice[:2])) == 2
    assert len(RightBothWays()(ctx, thrice)) == 0  # one wrong judgment among them
    with pytest.raises(CompositionError, match="comparisons"):
        RightBothWays()(context(method(), {"policy": grid(0)}, Grades(GRADES)), rows)


def test_the_warm_up_is_supervised_training_on_what_is_kept() -> None:
    world = judged(strings=torch.tensor([[0, 0], [0, 1], [1, 1], [1, 1]]))
    made = override(load("rise_judge:rise_judge_warm_up"), {"selection.count": 4})
    policy = Table(torch.zeros(world.states, 2))
    run = Run({"policy": policy}, world, generate, 0)
    done = next(rounds(run, Program((Stage(made, 1),))))
    assert sorted(done.kept.row["task"].tolist()) == [0, 1]
    assert float(policy.logits.detach()[0, 0]) > float(policy.logits.detach()[0, 1])


def test_states_of_a_judgment_are_its_aspect_and_what_it_says() -> None:
    world = judged()
    rows = world.complete(world.tasks(torch.tensor([0, 1, 2])), torch.tensor([[0, 1], [1, 0], [1, 1]]))
    assert rows.step["_state"].tolist() == [[0, 2], [0, 4], [0, 3]]
    assert replace(world, limit=2).comparisons(rows).tolist() == [0, 0, 1]
    assert world.swapped(rows).tolist() == [False, True, False]
