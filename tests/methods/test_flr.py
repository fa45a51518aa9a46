"""FLR: `reduces_to` of specification 253, each identity a test."""

from typing import Any

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.annotators import DISPLEASED, PLEASED, Dialogues
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.follow_ups import FollowUpLikelihood, likelihood_contrast
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Tasks
from support import close, context, grids, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


def world() -> Dialogues:
    return Dialogues(3, 4, 1, lambda s, task: torch.zeros(len(task)))


def answers() -> Any:
    every = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    return world().complete(Tasks(every[:, 0]), every[:, 1:])


def paid(user: Table, weight: float = 1.0) -> torch.Tensor:
    ctx = context(method(), {**grids(), "user": user}, world())
    return FollowUpLikelihood(weight)(ctx, answers()).step["reward"][:, 0]


def test_the_reward_is_the_difference_of_mean_likelihoods_per_token() -> None:
    user = Table(numbers(world().states, 4, seed=1))
    logp = user.logits.detach().log_softmax(-1)
    expected = []
    for task in range(3):
        for answer in range(4):
            means = []
            for side in (PLEASED, DISPLEASED):
                likely = []
                for one, two in side:
                    place = 3 + task * 4 + answer
                    after = 3 + 12 + (task * 4 + answer) * 4 + one
                    likely.append(float(logp[place, one] + logp[after, two]) / 2)
                means.append(sum(likely) / len(likely))
            expected.append(0.7 * (means[0] - means[1]))
    assert len({round(x, 6) for x in expected}) == 12
    close(paid(user, 0.7), expected)


def test_of_one_follow_up_each_it_is_a_difference_of_logits() -> None:
    """f+ = "yes", f- = "no" of one token: the normaliser cancels."""
    logits = numbers(5, 2, seed=3)
    likely = logits.log_softmax(-1).flatten()
    of = torch.arange(5).repeat_interleave(2)
    found = likelihood_contrast(likely, of, torch.tensor([True, False]).repeat(5), 5)
    close(found, logits[:, 0] - logits[:, 1])


def test_lists_may_differ_in_length_and_a_row_without_one_side_has_nothing() -> None:
    likely = torch.tensor([-1.0, -2.0, -6.0, -3.0, -4.0])
    of, pleased = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([True, True, False, True, True])
    close(likelihood_contrast(likely, of, pleased, 3), [-1.5 + 6.0, 0.0, 0.0])


def test_a_user_that_ignores_the_answer_makes_no_pairs() -> None:
    user = Table(torch.zeros(world().states, 4))
    close(paid(user), torch.zeros(12))
    made = override(load("flr"), {"selection.count": 3, "update.schedule": "constant", "update.learning_rate": 0.1})
    policy = Table(numbers(3, 4, seed=2))
    run = Run({"policy": policy, "user": user}, world(), generate, 0)
    done = next(rounds(run, Program((Stage(made, 1),))))
    assert len(done.kept) == 0
    close(policy.logits, numbers(3, 4, seed=2))


def test_the_best_sample_by_it_is_preferred() -> None:
    user = Table(numbers(world().states, 4, seed=1))
    made = override(load("flr"), {"selection.count": 3, "update.schedule": "constant", "update.learning_rate": 0.1})
    run = Run({"policy": Table(torch.zeros(3, 4)), "user": user}, world(), generate, 0)
    done = next(rounds(run, Program((Stage(made, 1),))))
    by_answer = paid(user).view(3, 4)
    for group in done.judged.row["group"].unique():
        rows = done.judged[done.judged.row["group"] == group]
        worth = by_answer[rows.row["task"], rows.step["_step"][:, 0]]
        assert int(rows.row["rank"][worth.argmax()]) == 0
        assert int(rows.row["rank"][worth.argmin()]) == 1
    with pytest.raises(CompositionError, match="follow_ups"):
        FollowUpLikelihood()(context(method(), grids(), None), answers())


def test_follow_ups_train_only_on_the_reaction() -> None:
    rows, of, pleased = world().follow_ups(answers())
    assert rows.trained.sum(1).tolist() == [2] * 48
    assert of.tolist()[:8] == [0] * 4 + [1] * 4
    assert pleased.tolist()[:4] == [True, True, False, False]
