"""VoiceGRPO: `reduces_to` of specification 100, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import choices_of, first_step
from policyopt.compose import CompositionError, Role, Term
from policyopt.methods import load
from policyopt.objective.optimistic import OptimisticSurrogate
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.types import Scores
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import bandit
from support import close, context, full_step, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def drawn(labels, classes=4):
    """Labels of one input in one group, rewarded if they are class 2."""
    rows = choices_of(bandit(torch.zeros(1, classes)), classes)[torch.tensor(labels)]
    reward = (rows.step["_step"] == 2).double()
    index = torch.arange(len(labels))
    group = torch.zeros(len(labels), dtype=torch.int64)
    return rows.with_steps({"reward": reward}).with_rows({"group": group, "_row": index})


def small(key="voicegrpo", weight=0.0):
    made = load(key)
    return replace(made, reward=FromWorld(), constraint=(replace(made.constraint[0], weight=weight),))


@pytest.mark.parametrize("key", ["voicegrpo", "voicegrpo:voicegrpo_released"])
def test_the_first_step_is_reinforce_with_the_standardised_reward(key: str) -> None:
    batch = drawn([0, 2, 1, 2, 3, 0])
    policy = Table(numbers(1, 4, seed=1))
    found = first_step(small(key), {"policy": policy}, batch).gradient
    p, mean = numbers(1, 4, seed=1)[0].softmax(-1), 1 / 3
    deviation = math.sqrt((2 * (1 - mean) ** 2 + 4 * mean**2) / 5) + 1e-8
    expected = torch.zeros(4)
    for label, reward in zip([0, 2, 1, 2, 3, 0], [0, 1, 0, 1, 0, 0], strict=True):
        expected -= (reward - mean) / deviation * (torch.eye(4)[label] - p) / 6
    close(found[0], expected, 1e-9)


def test_in_expectation_it_is_the_cross_entropy_gradient_scaled_by_the_odds() -> None:
    """grad p(y) / std = sqrt(p / (1 - p)) grad log p(y): every class as often as it is likely."""
    p = torch.tensor([0.5, 0.2, 0.1, 0.2])
    labels = [0] * 500 + [1] * 200 + [2] * 100 + [3] * 200
    found = first_step(small(), {"policy": Table(p.log()[None])}, drawn(labels)).gradient[0]
    expected = -math.sqrt(0.1 / 0.9) * (torch.eye(4)[2] - p)
    close(found, expected, 2e-4)


def test_the_penalty_is_the_exact_divergence_from_the_snapshot() -> None:
    """-beta sum_c pi_old (d log pi), over all classes, drawn or not."""
    batch = drawn([0, 0, 1])
    snapshot = numbers(1, 4, seed=5)
    rows = batch.with_steps({"reward": torch.zeros(3, 1)})
    of = Table(numbers(1, 4, seed=1))
    old = Table(snapshot).score(rows, full=True).detach()
    rows = rows.with_scores({"old": old})
    found = first_step(small(weight=0.01), {"policy": of}, rows).gradient[0]
    p = numbers(1, 4, seed=1)[0].softmax(-1)
    close(found, 0.01 * (p - snapshot[0].softmax(-1)), 1e-12)


def test_the_released_form_is_the_reverse_of_pessimism() -> None:
    """A < 0: no gradient above 1 + clip_high, and all of it below 1 - clip; A > 0: as usual."""
    batch = ragged((2, 2))
    for change, advantage, kept in ((0.5, -1.0, False), (-0.5, -1.0, True), (0.5, 1.0, False), (-0.5, 1.0, True)):
        models = grids()
        with torch.no_grad():
            models["old"].logp.copy_(models["policy"].logp - change)
        rows = batch.with_steps({"advantage": torch.full((2, 2), advantage)})
        found = {}
        for loss in (OptimisticSurrogate(0.2), ClippedSurrogate(0.2, 0.2)):
            ctx = context(method(Term("a", loss, TokenMean()), roles={"old": Role("old")}), models)
            found[type(loss)] = full_step(ctx, rows)[1]
        assert (float(found[OptimisticSurrogate].abs().max()) > 0) == kept
        if advantage > 0:
            close(found[OptimisticSurrogate], found[ClippedSurrogate])
        else:
            assert (float(found[ClippedSurrogate].abs().max()) > 0) != kept


def test_equal_rewards_and_settings() -> None:
    batch = drawn([2, 2, 2])
    close(first_step(small(), {"policy": Table(numbers(1, 4, seed=1))}, batch).gradient, torch.zeros(1, 4))
    made = load("voicegrpo")
    assert (made.sampling.size, made.constraint[0].weight, made.credit.epsilon) == (20, 0.01, 1e-8)
    with pytest.raises(CompositionError, match="clip_high"):
        OptimisticSurrogate(0.0)
    assert Scores(torch.zeros(1, 1)).exact
