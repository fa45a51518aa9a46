"""FIND: `reduces_to` of specification 21, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

from chains import DIMS, TASKS, world, worth
from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.policies.chains import flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.prior import only_prior
from policyopt.run import Run, StageContext
from policyopt.seen import SeenBatch
from policyopt.train import rounds
from policyopt.types import Scores
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.denoising import Trainable
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def policy(mean: float = 0.0, std: float = 1.0) -> Denoiser:
    network = VectorDenoiser(DIMS, Conditions(classes=TASKS), width=8, depth=2).double()
    made = only_prior(network, flow(4, 0.0)).double()
    with torch.no_grad():
        made.prior.mean.fill_(mean)
        made.prior.std.fill_(std)
    return made


def small(pull: float = 0.01, weight: float = 10.0, epochs: int = 1, rate: float = 1.0):
    made = load("find")
    term, value = made.objective
    update = GradientSteps({"critic": SGD(0.0), "policy": SGD(rate)}, epochs=epochs, clip_norm=None)
    return replace(
        made,
        selection=replace(made.selection, count=TASKS),
        objective=(replace(term, weight=weight), value),
        constraint=(replace(made.constraint[0], weight=pull),),
        update=update,
    )


def played(made, one: Denoiser, reward=worth, count: int = 1):
    run = Run({"policy": one}, world(one, reward, trainable=Trainable(prior=True)), generate, 0)
    return list(rounds(run, Program((Stage(made, count),)))), run


def test_at_the_old_prior_it_is_reinforce_with_a_critic_and_the_averaged_score() -> None:
    """d log p / dm_d = (z_d - m_d) / (s_d^2 D), d log p / ds_d = ((z_d - m_d)^2 / s_d^3 - 1 / s_d) / D."""
    one = policy(0.3, 0.8)
    (done,), run = played(small(pull=0.0), one)
    batch = done.judged
    z, reward = batch.step["_next"][:, 0], batch.step["reward"].sum(1)
    baseline = run.models["critic"].value(batch)[:, 0].detach()
    a = (reward - baseline)[:, None]
    mean = (10 * a * (z - 0.3) / 0.8**2 / DIMS).mean(0)
    std = (10 * a * ((z - 0.3) ** 2 / 0.8**3 - 1 / 0.8) / DIMS).mean(0)
    close(one.prior.mean - 0.3, mean, atol=1e-6)
    close(one.prior.std - 0.8, std, atol=1e-6)
    assert float(mean.abs().max()) > 1e-2


def test_without_reward_the_standard_normal_is_the_only_minimum() -> None:
    for mean, std in ((1.0, 0.5), (-2.0, 3.0), (0.0, 1.0)):
        one = policy(mean, std)
        played(small(pull=1.0, weight=0.0, rate=0.3), one, count=60)
        close(one.prior.mean, torch.zeros(DIMS), atol=1e-3)
        close(one.prior.std, torch.ones(DIMS), atol=1e-3)


def test_only_the_draw_of_the_noise_is_trained_and_the_network_stays() -> None:
    one = policy()
    before = [p.clone() for p in one.network.parameters()]
    (done,), _ = played(small(), one)
    assert done.kept.trained[:, 0].all()
    assert not done.kept.trained[:, 1:].any()
    assert all(torch.equal(a, b) for a, b in zip(before, one.network.parameters(), strict=True))
    assert float(one.prior.mean.detach().abs().max()) > 0


def test_samples_outside_the_range_have_no_gradient_for_either_sign() -> None:
    one = policy()
    (done,), _ = played(small(), policy())
    batch = done.kept
    now = one.score(batch).logp.detach()
    shift = torch.tensor([0.5, -0.5, 0.1, -0.1])[:, None]
    batch = batch.with_scores({"old": Scores(now - shift)})
    for sign in (1.0, -1.0):
        rows = batch.with_steps({"advantage": torch.full_like(now, sign)})
        made = small()
        ctx = StageContext(Run({"policy": one}, None, None), Stage(made, 1))
        for b in range(4):
            one.zero_grad()
            made.objective[0].loss(SeenBatch(ctx, rows[b : b + 1]), rows[b : b + 1])[0, 0].backward()
            assert (float(one.prior.mean.grad.abs().max()) > 0) == (b >= 2), (b, sign)


def test_several_epochs_use_the_critic_of_the_prior_that_drew_the_rows() -> None:
    one = policy()
    (done,), run = played(small(epochs=5, rate=0.01), one)
    assert run.updates == 5
    drawn_by = done.judged.row["_prior"]
    close(drawn_by, torch.tensor([0.0] * DIMS + [1.0] * DIMS).expand(TASKS, -1))
    assert not torch.equal(one.prior.mean.detach(), torch.zeros(DIMS))
    close(run.models["critic"].value(done.judged)[:, 0], done.credited.step["value"][:, 0], atol=1e-6)


def test_a_random_chain_or_a_fixed_prior_is_refused() -> None:
    network = VectorDenoiser(DIMS, width=8)
    with pytest.raises(ValueError, match="eta = 0"):
        only_prior(network, flow(4, 0.7))
    plain = Denoiser(VectorDenoiser(DIMS, Conditions(classes=TASKS), width=8).double(), flow(4, 0.0)).double()
    with pytest.raises(CompositionError, match="LearnedPrior"):
        played(small(), plain)


def test_the_scale_never_falls_below_its_least() -> None:
    one = policy(std=-1.0)
    dist = one.next(world(one).start(world(one).tasks(torch.arange(2))))
    assert float(dist.std.detach().min()) == pytest.approx(1e-4)
    assert math.isfinite(float(dist.log_prob(dist.mean).detach().sum()))
