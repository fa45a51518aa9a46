"""Importance weights of whole rows: by hand, unbiased over enumerated answers, and as an option of any method."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from policyopt.compose import CompositionError, Role
from policyopt.methods import load
from policyopt.objective.importance import TruncatedSequenceImportance
from policyopt.objective.surrogates import TruncatedImportance
from policyopt.options import OptionError, override
from policyopt.seen import SeenBatch
from policyopt.types import Scores, concatenate
from support import close, context, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def weights(part, old, behaviour, batch):
    """The part's weights where the old policy's and the sampler's log-probabilities are as given."""
    ctx = context(method(roles={"old": Role(when="collected")}), grids())
    batch = batch.with_steps({"behaviour": behaviour}).with_scores({"old": Scores(old)})
    return part(SeenBatch(ctx, batch), batch)


def test_weights_by_hand():
    batch = ragged((2, 1), tools=False)
    old = torch.log(torch.tensor([[0.5, 0.6], [0.9, 1.0]]))
    behaviour = torch.log(torch.tensor([[0.25, 0.4], [0.3, 1.0]]))
    # Rows: (0.5 / 0.25) (0.6 / 0.4) = 3 and 0.9 / 0.3 = 3, whatever stands in the padding.
    old[1, 1] = math.nan
    close(weights(TruncatedSequenceImportance(math.inf), old, behaviour, batch)[batch.own], torch.full((3,), 3.0))
    close(weights(TruncatedSequenceImportance(2.5), old, behaviour, batch)[batch.own], torch.full((3,), 2.5))
    steps = weights(TruncatedImportance(math.inf), old, behaviour, batch)
    close(steps[batch.own], torch.tensor([2.0, 1.5, 3.0]))


def test_rows_of_one_step_weigh_as_their_step():
    batch = ragged((1, 1, 1), tools=False)
    old, behaviour = numbers(3, 1, seed=1), numbers(3, 1, seed=2)
    rows, steps = (
        weights(part(1.3), old, behaviour, batch) for part in (TruncatedSequenceImportance, TruncatedImportance)
    )
    close(rows, steps)


def test_trap_20_rewards_of_whole_rows_are_unbiased_and_those_weighed_by_steps_are_not():
    """Two steps with three choices each, all nine answers: the mean of w R over the sampler is the mean of R over the
    policy."""
    chances = {name: numbers(4, 3, seed=seed).log_softmax(-1) for name, seed in (("old", 3), ("behaviour", 4))}
    answers = list(itertools.product(range(3), repeat=2))

    def logp(name):  # the second step depends on the first
        return torch.stack([torch.stack([chances[name][0, a], chances[name][1 + a, b]]) for a, b in answers])

    batch = concatenate([ragged((2,), tools=False)] * len(answers))
    reward = numbers(len(answers), seed=5)
    old, behaviour = logp("old"), logp("behaviour")
    right = (old.sum(1).exp() * reward).sum()
    found = weights(TruncatedSequenceImportance(math.inf), old, behaviour, batch)
    close(((behaviour.sum(1).exp() * reward)[:, None] * found).sum(0), right.expand(2), what="expectation")
    by_step = weights(TruncatedImportance(math.inf), old, behaviour, batch)
    assert float(((behaviour.sum(1).exp() * reward)[:, None] * by_step).sum(0).sub(right).abs().min()) > 1e-2


def test_weights_carry_no_gradient_and_need_a_cap_above_0():
    batch = ragged((2, 1), tools=False)
    old = numbers(2, 2, seed=1).requires_grad_()
    assert not weights(TruncatedSequenceImportance(), old, numbers(2, 2, seed=2), batch).requires_grad
    with pytest.raises(CompositionError, match="cap of importance weights"):
        TruncatedSequenceImportance(cap=-1.0)


@pytest.mark.parametrize("part", [TruncatedImportance, TruncatedSequenceImportance])
def test_a_recipe_can_weigh_any_term_by_it(part):
    name = {TruncatedImportance: "truncated_importance"}.get(part, "truncated_sequence_importance")
    key = "objective.policy.weight"
    assert override(load("grpo"), {key: {"part": name, "cap": 3.0}}).objective[0].weight == part(cap=3.0)
    assert override(load("grpo"), {key: name}).objective[0].weight == part()
    assert override(load("grpo"), {key: "0.5"}).objective[0].weight == 0.5
    with pytest.raises(OptionError):
        override(load("grpo"), {key: "importance"})
