"""RTO: `reduces_to` of specification 128, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import Grades, choices_of, first_step
from policyopt.compose import Chain, MissingModelError, Program, Stage
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.ops.sequences import last_own, total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.dense import LogRatioReward, RunningScore
from policyopt.reward.parts import FromWorld, ReferencePenalty, Verified
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.sequences import bandit
from support import close, grid, grids, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 20.0, -1.0, -40.0]


def models():
    return {**grids(), "preferred": grid(17)}


def test_without_token_rewards_it_is_ppo_with_the_divergence_in_the_reward() -> None:
    made = override(load("rto"), {"reward.coefficient": 0.0})
    batch = rewarded(ragged(), [0.0] * 4)
    score = RunningScore(centred=False, scaled=False, bound=10.0)
    ppo = replace(load("ppo"), reward=Chain((Verified(), score, ReferencePenalty(0.01))), constraint=())
    found = first_step(made, models(), batch, Grades(GRADES)).gradient
    assert float(found.abs().max()) > 1e-3
    close(found, first_step(ppo, grids(), batch, Grades(GRADES)).gradient)


def test_the_reward_of_every_step_by_hand() -> None:
    batch = rewarded(ragged(), [0.0] * 4)
    done = first_step(load("rto"), models(), batch, Grades(GRADES)).round.judged
    said = {name: model.logp.detach()[:4, :13] for name, model in models().items() if hasattr(model, "logp")}
    dense = (0.05 * (said["preferred"] - said["reference"])).clamp(-0.05, 0.05)
    dense = dense - 0.01 * (batch.step["behaviour"] - said["reference"])
    grades = torch.tensor(GRADES).clamp(-10, 10)
    expected = dense + torch.where(last_own(batch), grades[:, None], 0.0)
    close(done.step["reward"][batch.own], expected[batch.own])
    assert int((dense.abs() == 0.05).sum()) < dense.numel()


def test_unclipped_token_rewards_add_up_to_dpos_reward() -> None:
    batch = rewarded(ragged(), [0.0] * 4)
    made = replace(load("rto"), reward=Chain((FromWorld(), LogRatioReward(0.3, None))))
    done = first_step(made, models(), batch).round.judged
    gap = (models()["preferred"].logp - models()["reference"].logp).detach()[:4, :13]
    close(total_reward(done), 0.3 * torch.where(batch.own, gap, 0.0).sum(1))


def test_the_dpo_model_is_a_fixed_point_of_its_own_rewards() -> None:
    """R_RM = 0, b1 = b2, no clip: rewards b log(dpo / pi) are 0 at pi = dpo, and away from it the expected gradient
    is b times that of -KL(pi || dpo)."""
    world, made = bandit(torch.zeros(1, 4)), load("rto")
    reward = Chain((FromWorld(), LogRatioReward(0.5, None), ReferencePenalty(0.5)))
    made = replace(made, reward=reward, credit=GeneralisedAdvantage(1.0, 1.0, whitened=False))
    logits, reference = numbers(1, 4, seed=1), numbers(1, 4, seed=2)
    rows = choices_of(world, 4)
    for policy in (logits, numbers(1, 4, seed=3)):
        p = policy.log_softmax(-1)[0]
        batch = rows.with_steps({"behaviour": p[:, None]})
        tables = {"policy": Table(policy), "preferred": Table(logits), "reference": Table(reference)}
        weighted = replace(
            made, objective=tuple(replace(t, weight=lambda seen, b, p=p: 4 * p.exp()[:, None]) for t in made.objective)
        )
        found = first_step(weighted, tables, batch).gradient
        free = policy.clone().requires_grad_()
        kl = (free.softmax(-1) * (free.log_softmax(-1) - logits.log_softmax(-1))).sum()
        (expected,) = torch.autograd.grad(0.5 * kl, free)
        close(found, expected)
        if policy is logits:
            close(found, torch.zeros(1, 4))


def test_it_needs_a_dpo_model_and_evaluates_each_model_once() -> None:
    run = Run({"policy": Table(torch.zeros(4, 3))}, bandit(torch.eye(4, 3)), generate)
    with pytest.raises(MissingModelError, match="dpo trained"):
        next(rounds(run, Program((Stage(load("rto"), 1),))))
    given = models()
    first_step(load("rto"), given, rewarded(ragged(), [0.0] * 4), Grades(GRADES))
    assert (given["preferred"].calls, given["reference"].calls) == (1, 1)
