"""PPO-EWMA: `reduces_to` of specification 90, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Fixed, first_step
from policyopt.compose import Program, Role, Stage, Term
from policyopt.credit.running import RunningStandardised
from policyopt.methods import load
from policyopt.objective.decoupled import DecoupledSurrogate, RatioSurrogate
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import FromWorld
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Scores
from policyopt.update.averages import CorrectedAverage
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from support import close, context, full_step, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def step_of(loss, batch, roles=None, models=None):
    ctx = context(method(Term("a", loss, TokenMean()), roles=roles or {"proximal": Role("old")}), models or grids())
    value, gradient = full_step(ctx, batch)
    return value, gradient, ctx.meter


@given(st.integers(0, 50), st.sampled_from([(0.2, 0.2), (0.05, 0.4), (1.0, 1e9)]))
def test_proximal_equal_to_behaviour_is_ppo(seed: int, clip: tuple[float, float]) -> None:
    """Value and gradient, while every ratio is below the cap."""
    batch = ragged(seed=seed)
    found = step_of(DecoupledSurrogate(*clip), batch, {"proximal": Role(when="recorded")})
    ppo = step_of(ClippedSurrogate(*clip), batch, {"old": Role(when="recorded")})
    assert float(found[1].abs().max()) > 1e-3
    close(found[0], ppo[0], atol=1e-9)
    close(found[1], ppo[1], atol=1e-9)


def test_the_whole_method_is_ppos_first_step_when_the_average_is_the_sampler() -> None:
    """Before any update the average is the policy, which took the steps: -mean A grad log pi."""
    batch = ragged()
    models = grids(full=True)
    logp = models["policy"].score(batch).logp.detach()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0), "behaviour": logp})
    made = replace(load("ppo_ewma"), reward=FromWorld(), constraint=())
    found = first_step(made, models, batch)
    ppo = replace(load("ppo"), reward=FromWorld(), credit=made.credit, constraint=())
    close(found.gradient, first_step(ppo, grids(full=True), batch).gradient)
    assert float(found.gradient.abs().max()) > 1e-3


def test_the_clip_is_around_the_proximal_policy_and_the_weight_from_the_behaviour() -> None:
    """Behaviour far away, proximal near: nothing is clipped, and steps weigh pi / behaviour."""
    batch = ragged()
    policy = grids()["policy"].logp.detach()[:4, :13]
    batch = batch.with_steps({"behaviour": policy - 1.0, "advantage": torch.ones(4, 13)})
    near = batch.with_scores({"proximal": Scores(policy - 0.01)})
    far = batch.with_scores({"proximal": Scores(policy - 0.5)})
    roles = {"proximal": Role(when="collected")}
    count = int(batch.trained.sum())
    _, gradient, meter = step_of(DecoupledSurrogate(), near, roles)
    close(gradient[:4, :13], torch.where(batch.trained, -math.e / count, 0.0))
    assert meter.result()["a/clipped"] == 0.0
    value, gradient, meter = step_of(DecoupledSurrogate(), far, roles)
    close(gradient, torch.zeros_like(gradient))
    # The bound 1.2 p / b = 1.2 e^-0.5 e.
    close(value, -1.2 * math.exp(0.5))
    assert meter.result()["a/clipped"] == 1.0


def test_extreme_ratios_are_truncated_by_raising_the_denominator() -> None:
    """pi / b = e^6 > 100: the step weighs 100, in value and in gradient, and is not cut out."""
    policy = grids()["policy"].logp.detach()[:1, :2]
    batch = ragged((2,)).with_steps({"behaviour": policy - torch.tensor([6.0, 1.0]), "advantage": torch.ones(1, 2)})
    for loss in (DecoupledSurrogate(proximal="proximal"), RatioSurrogate("behaviour", cap=100.0)):
        scored = batch.with_scores({"proximal": Scores(policy)})
        value, gradient, _ = step_of(loss, scored, {"proximal": Role(when="collected")})
        close(gradient[0, :2], [-50.0, -math.e / 2], atol=1e-9)
        close(value, -(100 + math.e) / 2, atol=1e-9)


def test_the_average_is_the_weighted_mean_of_all_weights_so_far() -> None:
    """sum_k d^(n-k) theta_k / sum_k d^(n-k), the first weights among them; d = 0 copies."""
    history = [numbers(4, 13, seed=seed) for seed in range(6)]
    for decay in (0.0, 0.5, 0.889):
        ctx = context(method(), grids())
        policy, average = ctx.models["policy"].logp, ctx.models["old"].logp
        with torch.no_grad():
            average[:4, :13] = history[0]
        hook = CorrectedAverage("old", decay=decay)
        for n in range(1, 6):
            with torch.no_grad():
                policy[:4, :13] = history[n]
            hook(ctx)
            weights = [decay ** (n - k) for k in range(n + 1)]
            expected = sum(w * theta for w, theta in zip(weights, history, strict=False)) / sum(weights)
            close(average[:4, :13], expected, atol=1e-10)
            if decay == 0.0:
                assert torch.equal(average, policy)


def test_it_moves_after_every_update_not_every_round() -> None:
    """4 updates in 1 round: the distance to a policy that stays where it was put."""
    update = GradientSteps({"policy": SGD(0.0)}, epochs=4, after_step=(CorrectedAverage("old", decay=0.5),))
    ctx = context(method(Term("a", RatioSurrogate(), TokenMean()), update=update), grids())
    gap = (ctx.models["old"].logp - ctx.models["policy"].logp).detach().clone()
    update(ctx, ragged())
    # The first weights' share: 0.5^4 / (1 + 0.5 + ... + 0.5^4).
    close(ctx.models["old"].logp - ctx.models["policy"].logp, gap * 0.5**4 / (2 - 0.5**4))


def test_the_penalty_variant_is_a_quadratic_around_the_average() -> None:
    """-mean A pi / b + mean (log pi - log p)^2 / 2; at p = b = pi the penalty has no gradient."""
    made = replace(load("ppo_ewma:ppo_ewma_kl"), reward=FromWorld())
    made = replace(made, constraint=tuple(t for t in made.constraint if t.name != "entropy"))
    batch = ragged()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    models = {**grids(full=True), "proximal": grids(full=True)["old"]}
    done = first_step(made, models, batch)
    rows, models = done.round.kept, {**grids(full=True), "proximal": grids(full=True)["old"]}
    now, near = (models[n].score(batch).logp.detach() for n in ("policy", "proximal"))
    ratio = (now - batch.step["behaviour"]).exp().clamp(max=100.0)
    slope = -ratio * rows.step["advantage"] + (now - near)
    p = models["policy"].logits.detach()[:4, :13].softmax(-1)
    chosen = torch.nn.functional.one_hot(batch.step["_step"], 5)
    expected = torch.where(batch.trained[..., None], slope[..., None] * (chosen - p) / batch.trained.sum(), 0.0)
    close(done.gradient[:4, :13], expected)


def test_the_proximal_policy_is_scored_at_the_step() -> None:
    """With the average already apart from the sampler, the second minibatch is clipped around where it then is."""
    asked = []
    made = replace(load("ppo_ewma"), reward=FromWorld(), constraint=())
    made = replace(made, update=replace(made.update, minibatches=1, epochs=3))
    models = grids()
    models["proximal"] = grids()["policy"]
    score = models["proximal"].score

    def watched(batch, context=None, *, full=False):
        asked.append(float(models["proximal"].logp.detach().sum()))
        return score(batch, context, full=full)

    models["proximal"].score = watched
    batch = ragged()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    made = replace(made, sampling=Fixed(batch), roles={"proximal": Role("proximal")})
    made = replace(made, update=replace(made.update, optimizers={"policy": SGD(1.0), "critic": SGD(0.0)}))
    next(rounds(Run(models, None, None), Program((Stage(made, 1),))))
    assert len(set(asked)) == 3


def test_published_settings() -> None:
    made = load("ppo_ewma")
    assert made.objective[0].loss == DecoupledSurrogate(0.2, 0.2, 100.0)
    assert made.update.after_step == (CorrectedAverage("proximal", "policy", 0.889),)
    assert made.update.minibatches == 8
    assert made.update.optimizers["policy"].learning_rate == 5e-4
    assert (made.credit.parts[0].gamma, made.credit.parts[0].lam) == (0.999, 0.95)
    assert isinstance(made.credit.parts[1], RunningStandardised)
