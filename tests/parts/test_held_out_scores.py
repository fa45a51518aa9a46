"""Evaluation of language tasks: shares of right answers beside the mean score of graded verifiers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policyopt.engines.native import NativeEngine
from policyopt.evaluation.passes import mean_score, pass_counts, passes
from policyopt.policies.checkpoint import new_language
from policyopt.recipe.kinds import Evaluation
from policyopt.recipe.outcome import comparison, measures
from policyopt.worlds.tokens import TokenWorld

NAN = math.nan


def test_the_mean_is_over_tasks_and_leaves_out_what_is_not_scored():
    # Task means 0.25, 1.0 (of one) and, of nothing, none: (0.25 + 1) / 2. The mean of all scores would be 0.5.
    found = mean_score(np.array([[0.0, 0.5], [NAN, 1.0], [NAN, NAN]]))
    assert found is not None
    assert found.estimate == 0.625
    assert found.low <= 0.625 <= found.high
    assert mean_score(np.array([[NAN], [NAN]])) is None
    negative = mean_score(np.array([[-3.0], [-3.0]]))
    assert negative is not None
    assert (negative.low, negative.estimate, negative.high) == (-3.0, -3.0, -3.0)


def graded(judge) -> dict:
    policy = new_language(7, "gpt_neox", hidden_size=8, layers=1, heads=2, seed=3)
    world = TokenWorld([[1, 2], [3]], eos=0, limit=3, decode=str, judge=judge)
    return passes(policy, world, NativeEngine(), 5, 8).summary()


def test_partial_credit_that_no_answer_exceeds_is_shown_as_reward():
    found = graded(lambda texts, tasks: [0.25 if task == 0 else 0.5 for task in tasks])
    assert (found["greedy"], found["pass_at_1"], found["pass_at_8"]) == (0, 0, 0)
    assert found["reward"] == pytest.approx(0.375)
    assert list(measures(found)) == ["greedy", "reward", "pass_at_1", "pass_at_8"]
    assert pass_counts(8) == [1, 8]
    assert pass_counts(16) == [1, 8, 16]


def test_of_answers_that_are_right_or_wrong_the_reward_is_the_share_of_right_ones():
    found = graded(lambda texts, tasks: [float("1" in text) for text in texts])
    assert 0 < found["reward"] == pytest.approx(found["pass_at_1"])


def test_a_table_shows_what_only_one_evaluation_could_measure():
    after = graded(lambda texts, tasks: [0.5 for _ in texts])
    before = graded(lambda texts, tasks: [None for _ in texts])
    assert "reward" not in before
    table = comparison(Evaluation("", before), Evaluation("", after))
    cells = [list(column.cells) for column in table.columns]
    row = cells[0].index("reward")
    assert (cells[1][row], cells[2][row]) == ("-", "0.500  [0.500, 0.500]")
