"""Light-IF: `reduces_to` of specification 148."""

from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Fixed, first_step
from policyopt.compose import Program, Role, Stage
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Categorical
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from said import Said
from support import close, grids, logit_grid, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

CHECKS = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
SHARES = [2 / 3, 1.0, 1 / 3, 1 / 3]
GROUPS = [7, 3, 7, 3]


def stepped(made, checks=CHECKS, grade=SHARES):
    batch = rewarded(ragged(), [0.0] * 4)
    return first_step(made, {"policy": logit_grid(0)}, batch, Said(checks=checks, grade=grade))


def without_bonus(**options):
    return override(load("light_if"), {"constraint.scale": 0.0, **options})


def test_without_the_bonus_it_is_grpo_with_the_share_of_constraints() -> None:
    base = replace(load("grpo"), constraint=(), models={}, roles={"old": Role(when="collected")})
    found = stepped(without_bonus())
    close(total_reward(found.round.judged), SHARES)
    close(found.advantage, loops.standardised(SHARES, GROUPS, [True] * 4))
    close(found.gradient, stepped(base).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_with_one_constraint_the_dense_reward_is_right_or_wrong() -> None:
    one = [[c[0]] for c in CHECKS]
    dense, whole = stepped(without_bonus(), one), stepped(without_bonus(**{"reward.every": True}), one)
    close(dense.gradient, whole.gradient)
    close(total_reward(whole.round.judged), [1.0, 1.0, 0.0, 0.0])


def test_the_bonus_is_spent_by_a_softmax_of_the_covariance() -> None:
    """At equal rewards all advantages are 0 and so is every covariance: a row's steps share `scale` evenly."""
    strong = override(load("light_if"), {"constraint.scale": 2.0})
    batch = ragged()
    found = stepped(strong, [[1.0]] * 4).gradient[:4, :13]
    logits, own = logit_grid(0).logits.detach()[:4, :13], batch.trained
    assert torch.equal(found.abs().amax(-1) > 0, own)
    b, t = own.nonzero()[-1].tolist()
    free = logits[b, t].clone().requires_grad_()
    value = -2.0 / int(own[b].sum()) * Categorical.of(free).entropy() / int(own.sum())
    close(found[b, t], torch.autograd.grad(value, free)[0])


def cold(share, entropy=0.8):
    made = load("light_if:light_if_cold")
    (term,) = made.objective
    mask = replace(term.mask, share=share, entropy=entropy)
    update = GradientSteps({"policy": SGD(1.0)}, clip_norm=None)
    return replace(made, objective=(replace(term, mask=mask),), update=update, sampling=Fixed(ragged()))


def one_round(made):
    run = Run({"policy": logit_grid(0)}, None, None)
    before = run.models["policy"].logits.detach().clone()
    next(rounds(run, Program((Stage(made, 1),))))
    return before - run.models["policy"].logits.detach()


def test_the_cold_start_on_all_steps_is_plain_imitation() -> None:
    sft = replace(load("sft"), update=cold(1.0).update, sampling=Fixed(ragged()))
    close(one_round(cold(1.0)), one_round(sft))


def test_the_cold_start_leaves_what_doubt_explains() -> None:
    batch, policy = ragged(), logit_grid(0)
    found = one_round(cold(0.5))[:4, :13]
    said, own = policy.score(batch), batch.trained
    surplus = -said.logp.detach() - 0.8 * said.entropy.detach()
    count = int(own.sum()) // 2
    kept = own & (surplus >= surplus[own].sort(descending=True).values[count - 1])
    assert 0 < int(kept.sum()) == count < int(own.sum())
    assert torch.equal(found.abs().amax(-1) > 0, kept)
    b, t = kept.nonzero()[0].tolist()
    p = policy.logits.detach()[b, t].softmax(-1)
    close(found[b, t], (p - torch.nn.functional.one_hot(batch.step["_step"][b, t], 5)) / int(kept.sum()))


def test_unlike_grids_of_numbers_the_policy_needs_distributions() -> None:
    with pytest.raises(Exception, match="whole distribution"):
        first_step(load("light_if"), {"policy": grids()["policy"]}, ragged(), Said(checks=CHECKS))
