"""Denoising: chains against written-out formulas, transitions, policies, worlds, branches and regression."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policyopt.compose import Method, Program, Role, Stage, Term, frozen, trained_rows
from policyopt.engines.plain import generate
from policyopt.methods.flow_matching import flow_matching
from policyopt.methods.grpo import grpo
from policyopt.objective.matching import DenoisingRegression
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.random import new_keys
from policyopt.policies.chains import (
    Ddim,
    FlowSde,
    Heun,
    NoiseChain,
    PredictsNoise,
    PredictsSample,
    PredictsV,
    PredictsVelocity,
    clean_and_noise,
    diffusion,
    flow,
    heun_flow,
)
from policyopt.policies.denoisers import (
    Conditions,
    ImageDenoiser,
    PatchDenoiser,
    Switched,
    VectorDenoiser,
    partly_frozen,
)
from policyopt.policies.denoising import Denoiser, Guidance, LatentCritic, LearnedPrior
from policyopt.policies.paths import RectifiedFlow, VariancePreserving, cosine_betas, linear_betas
from policyopt.policies.transitions import Averaged, ClampedAverage, Summed, Transition
from policyopt.run import Run, StageContext
from policyopt.sampling.branches import Branched, Samples
from policyopt.seen import SeenBatch
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Finish, Source
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.update.gradient import GradientSteps, losses
from policyopt.update.optimizers import AdamW
from policyopt.worlds.denoising import DenoisingWorld, Trainable
from support import close

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Fixed(nn.Module):
    """A denoiser that is a plain function of latent and time."""

    conditions = Conditions()

    def __init__(self, function, dims=2):
        super().__init__()
        self.function, self.dims = function, dims

    def forward(self, latent, time, condition=None):
        return self.function(latent, time)


NOTHING = Conditions()


def small(chain, seed=0, conditions=NOTHING, **options):
    return Denoiser(VectorDenoiser(2, conditions, width=16, depth=2, seed=seed), chain, **options)


def world_of(policy, size=3, reward=None, **options):
    if policy.network.conditions.classes and "conditions" not in options:
        options["conditions"] = torch.arange(size) % policy.network.conditions.classes
    return DenoisingWorld(policy.chain.std, policy.dims, size, reward or (lambda x, task: x.sum(1)), **options)


def rolled(policy, world, count=6, seed=0, steps=None, batch=None):
    batch = world.start(world.tasks(torch.arange(count) % world.size)) if batch is None else batch
    return generate(policy, world, batch, new_keys(len(batch), generator(seed)), 1.0, 0, steps)


# -- chains ------------------------------------------------------------------------------------------------------------


def test_levels_of_a_shifted_flow():
    levels = RectifiedFlow(4, shift=3.0).levels()
    # s = 1, 3/4, 1/2, 1/4, 0 and 3 s / (1 + 2 s).
    close(levels.noise, [1, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0])
    close(levels.signal, 1 - levels.noise)
    close(levels.time, levels.noise[:-1])


def test_flow_sde_step_by_hand():
    # z = 2, s = 0.5, d = -0.25, v = 1: x0 = 2 - 0.5 = 1.5, score = -(2 - 0.5 * 1.5) / 0.25 = -5,
    # mean = 2 - 0.25 - 0.5 * 0.16 * (-5) * (-0.25) = 1.65, sd = 0.4 * 0.5 (specification 239).
    chain = NoiseChain(RectifiedFlow(2, sigmas=(0.5, 0.25, 0.0)), FlowSde(0.4), PredictsVelocity())
    step = chain.transition(lambda x, t: torch.ones_like(x), torch.tensor([[2.0]]), torch.tensor([0]))
    close(step.mean, [[1.65]])
    close(step.std, [[0.2]])
    # The last step is not noisy, and is the sample as it is seen from there.
    last = chain.transition(lambda x, t: torch.ones_like(x), torch.tensor([[2.0]]), torch.tensor([1]))
    close(last.mean, [[2 - 0.25]])
    close(last.std, [[0.0]])
    noisy = replace(chain, solver=FlowSde(0.4, noisy_end=True))
    close(noisy.std, [0.2, 0.4 * 0.5])


def test_flow_without_noise_is_an_euler_step():
    chain = flow(5, eta=0.0, shift=2.0)
    x, levels = torch.randn(5, 3, generator=generator()), chain.levels
    field = lambda z, t: z.sin() + t[:, None]  # noqa: E731
    step = chain.transition(field, x, torch.arange(5))
    width = (levels.noise[1:] - levels.noise[:-1])[:, None]
    close(step.mean, x + width * field(x, levels.time))
    assert not step.std.any()


def test_ddim_step_against_a_loop():
    betas, eta = cosine_betas(6), 0.7
    chain = diffusion(6, eta=eta, betas=betas)
    x = torch.randn(6, 2, generator=generator())
    eps = lambda z, t: z.cos() * (1 + t[:, None])  # noqa: E731
    step = chain.transition(eps, x, torch.arange(6))
    for k in range(6):
        now = math.prod(1 - b for b in betas[: 6 - k])
        after = math.prod(1 - b for b in betas[: 5 - k])
        noise = [math.cos(v) * (1 + 5 - k) for v in x[k].tolist()]
        sd = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        for d in range(2):
            clean = (float(x[k, d]) - math.sqrt(1 - now) * noise[d]) / math.sqrt(now)
            mean = math.sqrt(after) * clean + math.sqrt(max(1 - after - sd**2, 0)) * noise[d]
            close(step.mean[k, d], mean, 1e-9)
            close(step.std[k, d], sd, 1e-12)


def test_ddpm_posterior_is_ddim_with_eta_one():
    """Mean and variance of q(x_{t-1} | x_t, x_0) (arXiv 2006.11239, eq. 7), with a clipped x_0."""
    betas = torch.tensor(linear_betas(10, 0.01, 0.3))
    chain = diffusion(10, betas=tuple(betas.tolist()), clip_clean=1.0)
    x = 2 * torch.randn(10, 3, generator=generator())
    step = chain.transition(lambda z, t: z / 2, x, torch.arange(10))
    kept = (1 - betas).cumprod(0)
    for k in range(10):
        t = 9 - k
        before = kept[t - 1] if t else torch.tensor(1.0)
        clean = ((x[k] - (1 - kept[t]).sqrt() * x[k] / 2) / kept[t].sqrt()).clamp(-1, 1)
        mean = before.sqrt() * betas[t] / (1 - kept[t]) * clean
        mean = mean + (1 - betas[t]).sqrt() * (1 - before) / (1 - kept[t]) * x[k]
        close(step.mean[k], mean, 1e-10)
        close(step.std[k, 0] ** 2, (1 - before) / (1 - kept[t]) * betas[t], 1e-12)


@given(st.floats(0.05, 0.95), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 3))
def test_predictions_give_back_sample_and_noise(b, clean, noise, which):
    prediction = (PredictsNoise(), PredictsSample(), PredictsV(), PredictsVelocity())[which]
    a = torch.tensor(1 - b if which == 3 else math.sqrt(1 - b**2))
    b = torch.tensor(b)
    p, q = prediction.mixture(a, b)
    found = clean_and_noise(prediction, p * clean + q * noise, a * clean + b * noise, a, b)
    close(found[0], clean, 1e-9)
    close(found[1], noise, 1e-9)


def test_heun_is_second_order():
    """dz/ds = z with z(1) = 1 ends at exp(-1): halving the step must divide the error by about four; Euler's by two.
    The last step is Euler's, so it is left out."""

    def error(solver, steps):
        chain = NoiseChain(RectifiedFlow(steps), solver, PredictsVelocity())
        z = torch.ones(1, 1)
        for k in range(steps - 1):
            z = chain.transition(lambda x, t: x, z, torch.tensor([k])).mean
        return abs(float(z) - math.exp(-(1 - 1 / steps)))

    assert 3.5 < error(Heun(), 10) / error(Heun(), 20) < 4.7
    assert 1.7 < error(FlowSde(0.0), 10) / error(FlowSde(0.0), 20) < 2.3


def test_sampled_times_of_a_diffusion():
    path = VariancePreserving(linear_betas(1000), 4)
    assert path.levels().time.tolist() == [750, 500, 250, 0]
    assert VariancePreserving(linear_betas(1000), 2, times=(999, 10)).levels().time.tolist() == [999, 10]
    uniform = torch.tensor([0.0, 0.9999])
    assert path.training_time(uniform).tolist() == [0, 999]
    a, b = path.marginal(torch.tensor([0.0, 999.0]))
    close(a**2 + b**2, [1.0, 1.0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NoiseChain(RectifiedFlow(), Ddim(), PredictsVelocity()), "does not solve"),
        (lambda: NoiseChain(VariancePreserving((0.1,), 1), Heun(), PredictsNoise()), "does not solve"),
        (lambda: RectifiedFlow(0), "steps >= 1"),
        (lambda: RectifiedFlow(2, sigmas=(1.0, 0.0)), "need 3 sigmas"),
        (lambda: VariancePreserving((0.1, 0.2), 3), "1 to the 2 training times"),
        (lambda: VariancePreserving((0.1, 0.2), 1, times=(0, 1)), "need 1 times"),
        (lambda: Conditions(2, 3), "not both"),
        (lambda: partly_frozen(VectorDenoiser(2), torch.tensor([1.0, 0.5]), 3), "must be 1 to 2"),
    ],
)
def test_chains_that_can_not_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# -- transitions -------------------------------------------------------------------------------------------------------


def test_densities_by_name():
    mean, std = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[0.5, 2.0, 1.0]])
    step = torch.tensor([[0.25, 2.0, 5.0]])
    entries = [-0.5 * z**2 - math.log(s) - 0.5 * math.log(2 * math.pi) for z, s in ((0.5, 0.5), (0.5, 2), (6, 1))]
    close(Transition(mean, std, Summed()).log_prob(step), [sum(entries)])
    close(Transition(mean, std, Averaged()).log_prob(step), [sum(entries) / 3])
    # The last entry, -18.9, is clamped to -5; the first two dimensions are those that are executed.
    close(Transition(mean, std, ClampedAverage()).log_prob(step), [(entries[0] + entries[1] - 5) / 3])
    close(Transition(mean, std, ClampedAverage(entries=2)).log_prob(step), [(entries[0] + entries[1]) / 2])


def test_transition_agrees_with_torch():
    rng = generator(3)
    mean, other = torch.randn(2, 4, 5, generator=rng), torch.randn(2, 4, 5, generator=rng)
    std, wide = torch.rand(2, 4, 5, generator=rng) + 0.1, torch.rand(2, 4, 5, generator=rng) + 0.1
    mine, theirs = Transition(mean, std, Summed()), Transition(other, wide, Summed())
    first, second = torch.distributions.Normal(mean, std), torch.distributions.Normal(other, wide)
    close(mine.kl(theirs), torch.distributions.kl_divergence(first, second).sum(-1), 1e-12)
    close(mine.entropy(), first.entropy().sum(-1), 1e-12)
    close(mine.kl(mine), torch.zeros(2, 4))
    uniform = torch.rand(2, 4, 5, generator=rng)
    close(mine.sample(uniform), first.icdf(uniform), 1e-9)
    close(mine[1, 2:].mean, mean[1, 2:])
    close(mine.tempered(torch.full((2, 4), 4.0)).std, 2 * std)


def test_deterministic_dimensions_add_nothing():
    mean = torch.tensor([[1.0, 2.0]], requires_grad=True)
    step = Transition(mean, torch.tensor([[0.0, 1.0]]), Summed())
    close(step.log_prob(torch.tensor([[9.0, 2.0]])), [-0.5 * math.log(2 * math.pi)])
    step.log_prob(torch.tensor([[9.0, 2.5]])).sum().backward()
    close(mean.grad, [[0.0, 0.5]])
    close(step.sample(torch.tensor([[0.9, 0.5]])), [[1.0, 2.0]], 1e-9)
    silent = Transition(mean, torch.zeros(1, 2)).detach()
    assert float(silent.log_prob(mean.detach())) == float(silent.entropy()) == float(silent.kl(silent)) == 0


def test_least_std_is_in_the_density_and_noise_can_be_clipped():
    step = Transition(torch.zeros(1, 1), torch.full((1, 1), 0.01), floor=0.1, noise_clip=2.0)
    close(step.log_prob(torch.full((1, 1), 0.1)), [-0.5 - math.log(0.1) - 0.5 * math.log(2 * math.pi)])
    close(step.draw(torch.full((1, 1), 5.0))[0], [[0.02]])
    close(step.sample(torch.full((1, 1), 1.0)), [[0.02]], 1e-9)


def test_drawn_steps_have_a_gradient():
    mean = torch.zeros(1, 2, requires_grad=True)
    drawn, logp = Transition(mean, torch.full((1, 2), 0.5)).draw(torch.tensor([[1.0, -1.0]]))
    close(drawn, [[0.5, -0.5]])
    close(torch.autograd.grad(drawn.sum(), mean, retain_graph=True)[0], [[1.0, 1.0]])
    close(torch.autograd.grad(logp.sum(), mean)[0], [[0.0, 0.0]])


# -- policies and worlds -----------------------------------------------------------------------------------------------

CHAINS = {
    "flow": flow(6, eta=0.5, shift=2.0),
    "diffusion": diffusion(6, eta=1.0, min_std=0.1, density=ClampedAverage(), noise_clip=3.0),
    "ode": flow(6, eta=0.0),
    "heun": heun_flow(4),
}


@pytest.mark.parametrize("name", CHAINS)
def test_rows_of_a_chain(name):
    chain = CHAINS[name]
    policy = small(chain)
    world = world_of(policy)
    batch = rolled(policy, world)
    count = chain.steps + 1
    assert batch.steps == world.limit == policy.steps == count
    assert (batch.row["finish"] == Finish.STOPPED).all()
    assert (batch.step["clock_denoise"] == torch.arange(count)).all()
    expected = [False, *(chain.std > 0).tolist()]
    assert batch.step["train"].tolist() == [expected] * len(batch)
    # Each step begins where the one before ended; the row is where the last one ended.
    assert torch.equal(batch.step["_next"], batch.following("_latent"))
    assert torch.equal(batch.row["_latent"], batch.step["_next"][:, -1])
    assert not batch.step["behaviour"][:, 1:][:, chain.std == 0].any()


@pytest.mark.parametrize("name", ["flow", "diffusion"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_trap_15_score_at_and_next_agree(name, temperature):
    policy = small(CHAINS[name], conditions=Conditions(classes=3), guidance=Guidance(2.0))
    begun = world_of(policy).start(world_of(policy).tasks(torch.arange(6) % 3))
    begun = begun.with_rows({"temperature": torch.full((6,), temperature, dtype=torch.float64)})
    batch = rolled(policy, world_of(policy), batch=begun)
    score = policy.score(batch, full=True)
    whole = policy.at(batch)
    trained = batch.trained
    close(whole.log_prob(policy.taken(batch))[trained], score.logp[trained])
    close(score.logp[trained], batch.step["behaviour"][trained], 1e-12)
    assert score.dist is not None
    close(score.dist.mean[trained], whole.mean[trained])
    following = policy.at(batch, following=True)
    close(following.mean[:, :-1], whole.mean[:, 1:])


def test_steps_that_are_not_trained_are_not_evaluated():
    calls = []

    def field(x, t):
        calls.append(len(x))
        return x

    policy = Denoiser(Fixed(field), CHAINS["flow"])
    batch = rolled(policy, world_of(policy), count=4)
    train = torch.zeros_like(batch.step["train"])
    train[:, 2] = True
    calls.clear()
    score = policy.score(batch.with_steps({"train": train}))
    assert calls == [4]
    assert score.logp[:, 2].isfinite().all()
    assert score.logp[:, 3].isnan().all()


def test_guidance_is_in_sampling_and_scoring():
    """u = u_none + w (u_c - u_none), by two calls without guidance."""
    chain = CHAINS["flow"]
    plain = small(chain, conditions=Conditions(classes=2))
    guided = Denoiser(plain.network, chain, guidance=Guidance(3.0))
    x, time, task = torch.randn(5, 2, generator=generator()), torch.rand(5), torch.tensor([0, 1, 0, 1, 1])
    given, none = plain.predict(x, time, task), plain.predict(x, time, torch.full_like(task, 2))
    close(guided.predict(x, time, task), none + 3 * (given - none))
    with pytest.raises(ValueError, match="guidance needs conditions"):
        small(chain, guidance=Guidance(2.0)).predict(x, time, None)


def test_task_conditions_reach_the_network():
    policy = small(CHAINS["ode"], conditions=Conditions(features=2))
    told = torch.tensor([[0.0, 1.0], [5.0, -3.0]])
    world = world_of(policy, 2, conditions=told)
    first = rolled(policy, world, 2).row["_latent"]
    swapped = DenoisingWorld(world.std, 2, 2, conditions=told.flip(0))
    second = rolled(policy, swapped, 2).row["_latent"]
    assert (first - second).abs().min() > 1e-6
    with pytest.raises(ValueError, match="carry none"):
        policy.network(torch.zeros(1, 2), torch.zeros(1), None)


def test_a_learned_prior_is_the_trained_step():
    prior = LearnedPrior(2)
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([1.0, -2.0]))
        prior.std.copy_(torch.tensor([0.5, -3.0]))  # below the least std
    policy = Denoiser(frozen(small(CHAINS["ode"]).network), CHAINS["ode"], prior=prior)
    batch = rolled(policy, world_of(policy, trainable=Trainable(prior=True)), 4)
    assert batch.trained.sum(1).tolist() == [1] * 4
    drawn = batch.step["_next"][:, 0]
    close(drawn[:, 1], torch.full((4,), -2.0), 1e-3)
    score = policy.score(batch)
    entries = -0.5 * ((drawn[:, 0] - 1) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    close(score.logp[:, 0] * 2 - entries, Transition(prior.mean[1:], torch.tensor([1e-4])).log_prob(drawn[:, 1:]), 1e-9)
    score.logp[:, 0].sum().backward()
    assert prior.mean.grad.abs().min() > 0


def test_a_partly_frozen_chain_trains_its_last_steps_only():
    chain = flow(6, eta=0.5)
    network = VectorDenoiser(2, width=16, seed=1)
    policy = Denoiser(partly_frozen(network, chain.levels.time, 2), chain)
    world = world_of(policy, trainable=Trainable(last=2))
    batch = rolled(policy, world)
    # Of the last two stochastic transitions (the last of all is deterministic), one is in the tuned part.
    assert batch.trained[0].nonzero()[:, 0].tolist() == [4, 5]
    early, late = batch.with_steps({"train": torch.zeros_like(batch.trained)}), batch
    early.step["train"][:, 4] = True
    assert not policy.score(early).logp[:, 4].requires_grad
    gradient = torch.autograd.grad(policy.score(late).logp[:, 5].sum(), network.leave.weight)[0]
    assert gradient.abs().sum() > 0
    # Both parts are one network at first, so the whole chain is that of the plain policy.
    close(rolled(Denoiser(network, chain), world).row["_latent"], batch.row["_latent"])


def test_switched_networks_meet_at_the_boundary():
    one, two = Fixed(lambda x, t: x + 1), Fixed(lambda x, t: x - 1)
    both = Switched(one, two, 0.5)
    out = both(torch.zeros(3, 2), torch.tensor([0.9, 0.5, 0.1]))
    assert out.tolist() == [[1, 1], [1, 1], [-1, -1]]
    assert both(torch.zeros(1, 2), torch.tensor([0.9])).tolist() == [[1, 1]]
    assert both(torch.zeros(1, 2), torch.tensor([0.1])).tolist() == [[-1, -1]]


def test_critics_value_the_condition():
    policy = small(CHAINS["flow"], conditions=Conditions(classes=3))
    critic = policy.make_critic(generator())
    batch = rolled(policy, world_of(policy))
    value = critic.value(batch)
    assert value.shape == (6, batch.steps + 1)
    assert (value == value[:, :1]).all()
    assert (value[0] == value[3]).all()
    assert value[0, 0] != value[1, 0]
    blind = small(CHAINS["flow"]).make_critic(generator())
    found = blind.value(batch)
    close(found, found[:1, :1].expand_as(found), 1e-12)


def test_a_critic_of_latents_follows_the_chain():
    policy = small(CHAINS["flow"], conditions=Conditions(classes=3), critic=LatentCritic)
    critic = policy.make_critic(generator())
    batch = rolled(policy, world_of(policy))
    value = critic.value(batch)
    assert value.shape == (6, batch.steps + 1)
    assert (value[:, 1:] != value[:, :-1]).all()
    # Before step 3, and after the last one: the state there, whatever the rows beside it.
    state = (batch.step["_latent"][:, 3], batch.step["_clock"][:, 3], batch.row["_condition"])
    close(value[:, 3], critic(*state))
    close(value[:, -1], critic(batch.row["_latent"], batch.row["_clock"], batch.row["_condition"]))
    assert value[:, 0].unique().numel() == 3  # nothing is drawn yet: only the condition differs


def test_world_heads_and_recorded_samples():
    samples = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    policy = small(CHAINS["flow"])
    world = world_of(policy, 2, lambda x, task: {"a": x[:, 0], "b": task.to(x)}, samples=samples)
    rows = world.recorded(world.tasks(torch.tensor([1, 0])))
    close(rows.row["_latent"], samples.flip(0))
    assert rows.trained.all()
    assert rows.step["behaviour"].isnan().all()
    assert (rows.row["source"] == Source.DATASET).all()
    close(world.grade(rows), [3.0 + 1, 1.0])
    close(world.grade_heads(rows)["b"], [1.0, 0.0])
    with pytest.raises(ValueError, match="no recorded samples"):
        world_of(policy).recorded(world.tasks(torch.tensor([0])))
    with pytest.raises(ValueError, match="no reward"):
        DenoisingWorld(world.std, 2, 2).grade(rows)
    with pytest.raises(ValueError, match="a row for each of the 3 tasks"):
        world_of(policy, 3, samples=samples)


def test_chains_pause_and_go_on_with_noise_of_their_own():
    policy = small(CHAINS["flow"])
    world = world_of(policy)
    stem = rolled(policy, world, 2, steps=3)
    assert stem.steps == 3
    assert not stem.done.any()
    rows = rolled(policy, world, batch=stem[torch.tensor([0, 0, 1, 1])], seed=5)
    assert rows.done.all()
    assert torch.equal(rows.step["_next"][0, :3], rows.step["_next"][1, :3])
    assert not torch.equal(rows.step["_next"][0, 3], rows.step["_next"][1, 3])
    close(policy.score(rows).logp[rows.trained], rows.step["behaviour"][rows.trained], 1e-12)
    # Rows at different steps of their chains, side by side.
    mixed = rolled(policy, world, batch=rolled(policy, world, 2, steps=2))
    assert torch.equal(mixed.step["clock_denoise"][0], torch.arange(7))


@pytest.mark.parametrize("build", [ImageDenoiser, PatchDenoiser])
def test_image_denoisers(build):
    network = build((3, 8, 8), Conditions(classes=4), width=16)
    policy = Denoiser(network, flow(3))
    world = DenoisingWorld(policy.chain.std, policy.dims, 4, conditions=torch.arange(4))
    batch = rolled(policy, world, 4)
    assert batch.row["_latent"].shape == (4, 192)
    close(policy.score(batch).logp[batch.trained], batch.step["behaviour"][batch.trained], 1e-12)
    again = build((3, 8, 8), Conditions(classes=4), width=16)
    for mine, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_patches_go_back_where_they_came_from():
    with pytest.raises(ValueError, match="do not split"):
        PatchDenoiser((1, 6, 6), patch=4)


# -- sampling parts ----------------------------------------------------------------------------------------------------


def stage(method: Method, policy, world, **models):
    return StageContext(Run({"policy": policy, **models}, world, generate, 0), Stage(method, 10))


def drawn(ctx, count=2):
    def draw(number=None):
        tasks = ctx.world.tasks(torch.arange(count))
        return tasks.with_rows({"group": torch.arange(count) + 100})

    return draw


def test_branches_share_their_stem_and_it_is_not_trained():
    policy = small(flow(6, eta=0.5))
    ctx = stage(grpo, policy, world_of(policy))
    for stem in (1, 4):
        batch = Branched(stem, 3)(ctx, drawn(ctx), lambda rows: rows)
        assert batch.row["group"].tolist() == [100] * 3 + [101] * 3
        assert batch.row["stem"].tolist() == [stem] * 6
        steps = batch.step["_next"].view(2, 3, 7, 2)
        assert torch.equal(steps[:, 0, :stem], steps[:, 1, :stem])
        assert (steps[:, 0, stem:-1] != steps[:, 1, stem:-1]).all()
        assert batch.trained[:, :stem].sum() == 0
        assert batch.trained[:, stem:-1].all()
    scheduled = Branched(lambda ctx: 2 + ctx.step, 3)(ctx, drawn(ctx), lambda rows: rows)
    assert scheduled.row["stem"].unique().tolist() == [2]
    without = Branched(0, 3)(ctx, drawn(ctx), lambda rows: rows)
    assert without.step["_next"][:, 0].unique(dim=0).shape[0] == 6
    with pytest.raises(ValueError, match="stem must be at least 0"):
        Branched(-1)


def test_samples_are_trained_as_a_whole_and_by_any_model():
    policy, lagged = small(heun_flow(4)), small(heun_flow(4), seed=9)
    ctx = stage(grpo, policy, world_of(policy), lagged=lagged)
    batch = Samples(3, "lagged")(ctx, drawn(ctx), lambda rows: rows)
    assert batch.trained.sum(1).tolist() == [1] * 6
    assert batch.trained[:, -1].all()
    close(batch.row["_latent"], lagged.at(batch).mean[:, -1])


# -- regression --------------------------------------------------------------------------------------------------------

BASES = [flow(4), diffusion(5, betas=linear_betas(20, 0.01, 0.2))]
BASES += [replace(BASES[1], prediction=p) for p in (PredictsSample(), PredictsV())]


@pytest.mark.parametrize("chain", BASES)
def test_matching_in_the_space_of_clean_samples(chain):
    policy = small(chain)
    samples = torch.randn(3, 2, generator=generator(1))
    rows = world_of(policy, samples=samples).recorded(world_of(policy).tasks(torch.arange(3)))
    rows = rows.with_rows(policy.noise(rows, generator(2), 4))
    found = policy.match(rows)
    time, noise = rows.row["match_time"], rows.row["match_noise"]
    a, b = (level[..., None] for level in chain.path.marginal(time))
    noised = a * samples[:, None] + b * noise
    clean, _ = clean_and_noise(chain.prediction, found.prediction, noised, a, b)
    close(found.clean_error(), (clean - samples[:, None]).abs(), 1e-9)
    perfect = clean_and_noise(chain.prediction, found.target, noised, a, b)
    close(perfect[0], samples[:, None].expand(-1, 4, -1), 1e-9)
    close(perfect[1], noise, 1e-9)
    close(found.error(), ((found.prediction - found.target) ** 2).mean(-1))


def test_regression_against_a_loop_and_split_into_micro_batches():
    policy = small(flow(4), conditions=Conditions(classes=2))
    samples = torch.randn(5, 2, generator=generator(1))
    world = world_of(policy, 5, samples=samples)
    term = Term("matching", DenoisingRegression(points=3, dropped=0.5), RowMean(), mask=trained_rows)
    method = replace(flow_matching, objective=(term,))
    ctx = stage(method, policy, world)
    rows = world.recorded(world.tasks(torch.arange(5)))
    whole = list(losses(stage(method, policy, world), rows, (term,)))
    parts = list(losses(stage(method, policy, world), rows, (term,), micro_rows=2))
    assert len(whole) == 1
    assert len(parts) == 3
    close(sum(parts), whole[0])
    planned = term.loss.plan(SeenBatch(ctx, rows), rows)
    total = 0.0
    for row in range(5):
        for point in range(3):
            time, noise = planned.row["match_time"][row, point], planned.row["match_noise"][row, point]
            hidden = bool(planned.row["match_dropped"][row, point])
            x = (1 - time) * samples[row] + time * noise
            given = torch.tensor([2 if hidden else row % 2])
            said = policy.network(x[None], time[None], given)[0].detach()
            total += float(((said - (noise - samples[row])) ** 2).mean()) / 15
    close(whole[0], total, 1e-9)
    assert 0 < planned.row["match_dropped"].sum() < 15
    with pytest.raises(ValueError, match="points must be at least 1"):
        DenoisingRegression(points=0)


def test_regression_needs_a_denoiser():
    from policyopt.policies.tabular import Table

    policy = small(flow(4))
    world = world_of(policy, samples=torch.zeros(3, 2))
    ctx = stage(flow_matching, Table(torch.zeros(1, 2)), world)
    with pytest.raises(ValueError, match="can not give a forward process"):
        list(losses(ctx, world.recorded(world.tasks(torch.arange(3))), flow_matching.objective))


def test_a_flow_learns_a_gaussian(single):
    """Velocity regression by the loop: samples end with the data's mean and spread."""
    samples = torch.tensor([1.0, -1.0]) + 0.5 * torch.randn(512, 2, generator=generator())
    policy = Denoiser(VectorDenoiser(2, width=32, depth=2), flow(8, eta=0.5))
    world = DenoisingWorld(policy.chain.std, 2, 512, samples=samples)
    for _ in rounds(
        Run({"policy": policy}, world, generate),
        Program((Stage(replace(flow_matching, selection=Selection(count=64)), 150),)),
    ):
        pass
    found = rolled(policy, world, 1000).row["_latent"]
    close(found.mean(0), [1.0, -1.0], 0.12)
    close(found.std(0), [0.5, 0.5], 0.12)


def two_stages():
    """Regression on samples, then GRPO over branches, on chains of a class-conditional flow."""
    tuned = replace(
        grpo,
        selection=Selection(count=2),
        sampling=Branched(lambda ctx: 1 + ctx.stage_step % 2, 3),
        objective=(Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),),
        constraint=(),
        roles={"old": Role(when="collected")},
        models={},
        update=GradientSteps({"policy": AdamW(0.01)}, epochs=2, minibatches=2),
    )
    return Program((Stage(replace(flow_matching, selection=Selection(count=2)), 2), Stage(tuned, 4)))


def test_a_resumed_run_is_bitwise_the_same():
    def new():
        policy = small(flow(4, eta=0.5), conditions=Conditions(classes=3))
        samples = torch.randn(3, 2, generator=generator(1))
        return Run({"policy": policy}, world_of(policy, samples=samples), generate, 5)

    whole, saved, drawn = new(), {}, []
    for done in rounds(whole, two_stages()):
        drawn.append(done.judged)
        saved[whole.step] = copy.deepcopy(whole.state())
    again = new()
    again.load_state(saved[3], two_stages())
    redrawn = [done.judged for done in rounds(again, two_stages())]
    assert again.step == whole.step == 6
    for name, value in whole.models["policy"].state_dict().items():
        assert torch.equal(value, again.models["policy"].state_dict()[name]), name
    assert len(redrawn) == 3
    assert torch.equal(drawn[-1].step["_next"], redrawn[-1].step["_next"])


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 8), st.floats(0.1, 1.0))
def test_padding_and_order_of_rows_change_no_score(steps, eta):
    policy = small(flow(steps, eta=eta))
    batch = rolled(policy, world_of(policy), 4)
    order = torch.tensor([2, 0, 3, 1])
    trained = batch.trained
    close(policy.score(batch[order]).logp[trained], policy.score(batch).logp[order][trained])
