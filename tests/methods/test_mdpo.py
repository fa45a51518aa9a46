"""MDPO, on-policy: `reduces_to` of specification 91, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Fixed, first_step
from policyopt.compose import Program, Role, Stage, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.constraint.mirror import InverseAnnealed
from policyopt.methods import load
from policyopt.objective.decoupled import RatioSurrogate
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.run import Run, StageContext
from policyopt.train import rounds
from policyopt.types import Categorical, Scores, Tasks
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import losses
from policyopt.worlds.tables import contextual_bandit
from support import close, context, full_step, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")

FULL = {"policy": Role(grad=True, full=True), "old": Role("old", full=True)}


def rewards_of_own_steps(batch):
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


def test_one_step_is_the_vanilla_policy_gradient() -> None:
    """m = 1: at pi = old the divergence has no gradient, so the step is that of PPO's first minibatch."""
    batch = rewards_of_own_steps(ragged())
    mdpo = replace(load("mdpo"), reward=FromWorld())
    found = first_step(mdpo, grids(full=True), batch).gradient
    ppo = replace(load("ppo"), reward=FromWorld(), credit=mdpo.credit, constraint=())
    assert float(found.abs().max()) > 1e-2
    close(found, first_step(ppo, grids(full=True), batch).gradient)


def test_gradient_off_the_old_policy_in_full() -> None:
    """-mean r A (onehot - p) + 2 mean p (log p - log q - KL) at weight 2, over trained steps."""
    models, batch = grids(full=True), ragged()
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("proximity", ExactKL("policy", "old"), TokenMean(), weight=2.0),
    )
    _, gradient = full_step(context(method(*terms, roles=FULL), models), batch)
    p, q = (models[name].logits.detach()[:4, :13].log_softmax(-1) for name in ("policy", "old"))
    chosen = torch.nn.functional.one_hot(batch.step["_step"], 5)
    ratio = ((p - q) * chosen).sum(-1, keepdim=True).exp()
    kl = (p.exp() * (p - q)).sum(-1, keepdim=True)
    slope = -ratio * batch.step["advantage"][..., None] * (chosen - p.exp()) + 2 * p.exp() * (p - q - kl)
    expected = torch.where(batch.trained[..., None], slope / batch.trained.sum(), 0.0)
    close(gradient[:4, :13], expected)


@given(st.integers(0, 40), st.sampled_from([1.0, 0.3, 0.04]))
def test_the_fixed_point_is_exponential_weights(seed: int, step: float) -> None:
    """A softmax table over every choice once, weighted by pi_old: the loss is stationary exactly at pi_old exp(t A)."""
    mdp = contextual_bandit(numbers(3, 4, seed=seed))
    old, ids = numbers(4, 4, seed=seed + 1), torch.arange(3).repeat_interleave(4)
    batch = mdp.start(Tasks(ids))
    choice = torch.arange(4).repeat(3)
    batch = mdp.append(batch, choice, torch.zeros(12), torch.ones(12, dtype=torch.bool), 0)
    p = old.softmax(-1)[:3]
    advantage = mdp.mean_reward[:3] - (p * mdp.mean_reward[:3]).sum(1, keepdim=True)
    # Every context has four rows; a mean over actions under pi_old is a mean over its rows of 4 pi_old A.
    batch = batch.with_steps({"advantage": (4 * p * advantage).flatten()[:, None]})
    dist = Categorical.of(old[ids][:, None])
    batch = batch.with_scores({"old": Scores(dist.log_prob(choice[:, None]), None, dist)})
    weight = InverseAnnealed()(SimpleNamespace(ctx=SimpleNamespace(stage_step=1 - step, stage_total=1)), batch)
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("proximity", ExactKL("policy", "old"), TokenMean(), weight=float(weight)),
    )
    solution = old.clone()
    solution[:3] += step * advantage
    roles = {"policy": Role(grad=True, full=True), "old": Role(when="collected", full=True)}
    for logits, stationary in ((solution, True), (old, False)):
        policy = Table(logits)
        ctx = context(method(*terms, roles=roles), {"policy": policy})
        (loss,) = losses(ctx, batch, terms)
        (slope,) = torch.autograd.grad(loss, policy.logits)
        assert (float(slope.abs().max()) < 1e-10) == stationary


def test_the_pull_grows_with_the_rounds_and_stays_finite() -> None:
    """1 / (1 - k / K): 1, 4/3, 2, 4 over four rounds, seen in the loss at a fixed distance."""
    made = load("mdpo")
    (term,) = made.constraint
    run = Run(grids(full=True), None, None)
    roles = {"policy": Role(grad=True, full=True), "old": Role("old", full=True)}
    stage = Stage(method(replace(term, name="proximity"), roles=roles), 4)
    found = []
    for step in range(4):
        run.step = step
        ctx = StageContext(run, stage)
        found.append(full_step(ctx, ragged())[0])
    close(torch.stack(found) / found[0], [1.0, 4 / 3, 2.0, 4.0])


def test_ten_steps_come_closer_to_the_solution_than_one() -> None:
    """One state, exact advantages: the share of the way from old to pi_old exp(A) in divergence."""
    batch = ragged((1,) * 4, tools=False).with_steps({"_step": torch.arange(4)[:, None]})
    left = {}
    for epochs in (1, 10):
        models = {"policy": Table(torch.zeros(1, 4)), "critic": grids()["critic"]}
        rows = batch.with_steps({"_state": torch.zeros(4, 1, dtype=torch.int64)})
        rows = rows.with_steps({"reward": torch.tensor([1.0, 0.0, -0.5, -0.5])[:, None]})
        made = override(load("mdpo"), {"update.epochs": epochs, "update.optimizers.policy.learning_rate": 0.1})
        made = replace(made, reward=FromWorld(), sampling=Fixed(rows), credit=replace(made.credit, whitened=False))
        with torch.no_grad():
            models["critic"].values.zero_()
        next(rounds(Run(models, None, None), Program((Stage(made, 1),))))
        solution = Categorical.of(torch.tensor([1.0, 0.0, -0.5, -0.5]))
        left[epochs] = float(Categorical.of(models["policy"].logits.detach()[0]).kl(solution))
    assert left[10] < 0.2 * left[1]


def test_published_settings() -> None:
    mdpo = load("mdpo")
    assert (mdpo.update.epochs, mdpo.update.minibatches, mdpo.update.clip_norm) == (10, 1, 0.5)
    assert mdpo.update.optimizers["policy"].learning_rate == 3e-4
    assert (mdpo.credit.gamma, mdpo.credit.lam) == (0.99, 0.95)
    assert mdpo.constraint[0].weight == InverseAnnealed(1.0)
