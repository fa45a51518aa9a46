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
    return override(load("light_if"), {"constraint.entropy.weight": 0.0, **options})


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


def test_the_bonus_moves_only_steps_of_low_entropy() -> None:
    """At equal rewards the gradient is that of the bonus: 0 where the entropy is above its target."""
    strong = override(load("light_if"), {"constraint.entropy.weight": 1.0, "constraint.target": 1.2})
    batch = ragged()
    found = stepped(strong, [[1.0]] * 4).gradient[:4, :13]
    logits = logit_grid(0).logits.detach()[:4, :13]
    low = (Categorical.of(logits).entropy() < 1.2) & batch.trained
    assert 0 < int(low.sum()) < int(batch.trained.sum())
    moved = found.abs().amax(-1) > 0
    assert torch.equal(moved, low)
    b, t = low.nonzero()[0].tolist()
    free = logits[b, t].clone().requires_grad_()
    entropy = Categorical.of(free).entropy()
    value = -float((1.2 - entropy.detach()) / 1.2) * entropy / int(batch.trained.sum())
    close(found[b, t], torch.autograd.grad(value, free)[0])


def cold(quantile):
    made = load("light_if:light_if_cold")
    (term,) = made.objective
    mask = replace(term.mask, quantile=quantile)
    update = GradientSteps({"policy": SGD(1.0)}, clip_norm=None)
    return replace(made, objective=(replace(term, mask=mask),), update=update, sampling=Fixed(ragged()))


def one_round(made):
    run = Run({"policy": logit_grid(0)}, None, None)
    before = run.models["policy"].logits.detach().clone()
    next(rounds(run, Program((Stage(made, 1),))))
    return before - run.models["policy"].logits.detach()


def test_the_cold_start_on_all_steps_is_plain_imitation() -> None:
    sft = replace(load("sft"), update=cold(0.0).update, sampling=Fixed(ragged()))
    close(one_round(cold(0.0)), one_round(sft))


def test_the_cold_start_leaves_what_is_already_known() -> None:
    batch, policy = ragged(), logit_grid(0)
    found = one_round(cold(0.5))[:4, :13]
    said = policy.score(batch)
    loss, entropy, own = -said.logp.detach(), said.entropy.detach(), batch.trained
    kept = own & ((loss >= loss[own].quantile(0.5)) | (entropy >= entropy[own].quantile(0.5)))
    assert 0 < int(kept.sum()) < int(own.sum())
    assert torch.equal(found.abs().amax(-1) > 0, kept)
    b, t = kept.nonzero()[0].tolist()
    p = policy.logits.detach()[b, t].softmax(-1)
    close(found[b, t], (p - torch.nn.functional.one_hot(batch.step["_step"][b, t], 5)) / int(kept.sum()))


def test_unlike_grids_of_numbers_the_policy_needs_distributions() -> None:
    with pytest.raises(Exception, match="whole distribution"):
        first_step(load("light_if"), {"policy": grids()["policy"]}, ragged(), Said(checks=CHECKS))
