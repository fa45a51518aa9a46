"""Traps 56, 57 and 58: densities of denoising steps, edges of the schedule, ratios across noise levels."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from policyopt.compose import Given as User
from policyopt.compose import Program, Role, Stage, Term
from policyopt.engines.plain import generate
from policyopt.methods.grpo import grpo
from policyopt.objective.centred import CentredSurrogate
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.random import new_keys
from policyopt.policies.chains import FlowSde, NoiseChain, PredictsVelocity, diffusion, flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser, Guidance
from policyopt.policies.paths import RectifiedFlow, linear_betas
from policyopt.policies.transitions import Averaged, ClampedAverage, Summed, Transition
from policyopt.run import Run, StageContext
from policyopt.sampling.branches import Branched
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Scores
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.denoising import DenoisingWorld
from support import close

pytestmark = pytest.mark.usefixtures("float64")


@contextlib.contextmanager
def single_precision():
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float64)


class Linear(nn.Module):
    """The exact prediction for data N(mean, std^2): E[eps | x] = b (x - a mean) / (a^2 std^2 + b^2), and for flows
    E[eps - x_0 | x]."""

    conditions = Conditions()

    def __init__(self, chain, mean, std, dims=1):
        super().__init__()
        self.chain, self.mean, self.std, self.dims = chain, mean, std, dims

    def forward(self, latent, time, condition=None):
        a, b = (level[:, None] for level in self.chain.path.marginal(time))
        gap, total = latent - a * self.mean, a**2 * self.std**2 + b**2
        noise, clean = b * gap / total, self.mean + a * self.std**2 * gap / total
        return noise - clean if isinstance(self.chain.prediction, PredictsVelocity) else noise


def rolled(policy, count, seed=0, conditions=None):
    size = 1 if conditions is None else len(conditions)
    world = DenoisingWorld(policy.chain.std, policy.dims, size, conditions=conditions)
    batch = world.start(world.tasks(torch.arange(count) % size))
    return generate(policy, world, batch, new_keys(count, torch.Generator().manual_seed(seed)), 1.0, 0)


# -- 56: reduction of the density --------------------------------------------------------------------------------------


def ratio(density, dims, shift=0.1):
    """pi(x) / pi_old(x) at x = 1 in every dimension, means `shift` and 0, std 1."""
    x, one = torch.ones(1, dims), torch.ones(1, dims)
    new, old = Transition(shift * one, one, density), Transition(0 * one, one, density)
    return float((new.log_prob(x) - old.log_prob(x)).exp())


def test_trap_56_the_ratio_of_twice_the_dimensions_under_each_convention():
    entry = math.exp(0.1 - 0.005)  # of one dimension
    assert ratio(Summed(), 4) == pytest.approx(entry**4)
    assert ratio(Summed(), 8) == pytest.approx(entry**8)
    assert ratio(Averaged(), 4) == pytest.approx(ratio(Averaged(), 8)) == pytest.approx(entry)
    assert ratio(ClampedAverage(), 8) == pytest.approx(entry)
    assert ratio(ClampedAverage(entries=4), 8) == pytest.approx(entry)


def test_trap_56_the_effective_clip_range_is_reported():
    assert Summed().effective_clip(0.2, 64) == 0.2
    assert Averaged().effective_clip(1e-4, 16384) == pytest.approx(math.exp(16384 * math.log1p(1e-4)) - 1)
    assert Averaged().effective_clip(0.1, 2) == pytest.approx(0.21)
    assert ClampedAverage(entries=2).effective_clip(0.1, 64) == pytest.approx(0.21)
    said = flow(4, eta=0.5).report(2, 0.1)
    assert said["density"] == "Averaged"
    assert said["effective_clip"] == pytest.approx(0.21)
    assert said["std"] == pytest.approx([0.25, 0.25, 0.25, 0.0])


# -- 57: edges of the schedule -----------------------------------------------------------------------------------------

STORED = {
    "flow": flow(8, eta=0.7, shift=3.0),
    "ddim": diffusion(8, eta=1.0, betas=linear_betas(1000)),
    "ddim, half the noise": diffusion(8, eta=0.5),
    "least std": diffusion(8, eta=1.0, min_std=0.1, density=ClampedAverage(), clip_clean=1.0, noise_clip=3.0),
    "noisy end": NoiseChain(RectifiedFlow(8), FlowSde(0.5, noisy_end=True), PredictsVelocity(), density=Summed()),
}


def test_trap_57_replay_of_a_stored_trajectory_has_ratio_one_at_every_step():
    for chain in STORED.values():
        for scale in (1.0, 4.0):
            network = VectorDenoiser(3, Conditions(classes=2), width=16, time_scale=float(chain.levels.time.max()))
            policy = Denoiser(network, chain, guidance=Guidance(scale))
            batch = rolled(policy, 16, conditions=torch.tensor([0, 1]))
            change = (policy.score(batch).logp - batch.step["behaviour"])[batch.trained]
            close(change.exp(), torch.ones_like(change), 1e-10)
            if scale != 1:
                # Guidance left out of scoring is another density.
                plain = Denoiser(network, chain).score(batch)
                assert (plain.logp - batch.step["behaviour"])[batch.trained].abs().max() > 1e-3


@single_precision()
def test_trap_57_replay_in_single_precision():
    for chain in STORED.values():
        policy = Denoiser(VectorDenoiser(3, width=16, time_scale=float(chain.levels.time.max())), chain)
        batch = rolled(policy, 16)
        change = (policy.score(batch).logp - batch.step["behaviour"])[batch.trained]
        close(change.exp(), torch.ones_like(change), 2e-4)


def test_trap_57_half_precision_networks_have_single_precision_densities():
    chain = STORED["flow"]
    mean = torch.zeros(1, 3, dtype=torch.bfloat16)
    step = chain.gaussian(mean, torch.full_like(mean, 0.01))
    assert step.mean.dtype == step.std.dtype == torch.float32
    assert step.log_prob(torch.zeros(1, 3, dtype=torch.float32)).dtype == torch.float32


def test_trap_57_the_last_step_without_noise_has_no_density_and_is_not_trained():
    """DDIM onto a clean level: sd is 0 at the last step for every eta."""
    chain = diffusion(6, eta=1.0)
    assert float(chain.std[-1]) == 0
    assert (chain.std[:-1] > 0).all()
    batch = rolled(Denoiser(VectorDenoiser(2, width=8, time_scale=6), chain), 4)
    assert batch.trained.tolist() == [[False, *[True] * 5, False]] * 4
    assert not batch.step["behaviour"][:, -1].any()
    # With a least std declared, it has one, in sampling and in the density.
    floor = replace(chain, min_std=0.1)
    assert float(floor.std[-1]) == 0.1
    assert rolled(Denoiser(VectorDenoiser(2, width=8, time_scale=6), floor), 4).trained[:, -1].all()


def test_trap_57_a_linear_gaussian_denoiser_has_the_closed_form_marginal():
    """Data N(0.7, 0.5^2), exact denoiser: mean and variance after every step, propagated by hand from x' = A x + B + sd
    xi, equal those of 40,000 sampled chains; an index off by one moves them."""
    for eta in (0.0, 0.3, 1.0):
        chain = diffusion(5, eta=eta, betas=(0.1, 0.2, 0.3, 0.4, 0.5))
        policy = Denoiser(Linear(chain, 0.7, 0.5), chain)
        batch = rolled(policy, 40_000)
        kept = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).cumprod(0).tolist()
        mean, variance = 0.0, 1.0
        for k in range(5):
            now, after = kept[4 - k], kept[3 - k] if k < 4 else 1.0
            a, b = math.sqrt(now), math.sqrt(1 - now)
            total = now * 0.25 + b**2
            sd = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
            slope = math.sqrt(after) * a * 0.25 / total + math.sqrt(max(1 - after - sd**2, 0)) * b / total
            offset = math.sqrt(after) * (0.7 - a * 0.25 / total * a * 0.7)
            offset -= math.sqrt(max(1 - after - sd**2, 0)) * b / total * a * 0.7
            mean, variance = slope * mean + offset, slope**2 * variance + sd**2
            found = batch.step["_next"][:, k + 1]
            close(found.mean(), mean, 4 * math.sqrt(variance / 40_000))
            close(found.var(), variance, 4 * variance * math.sqrt(2 / 40_000))


def test_trap_57_sde_and_ode_of_a_flow_end_alike_for_gaussian_data():
    """Specification 239: 200 steps, standard deviations within 2 percent. Moments are carried along exactly: a linear
    denoiser's mean is A x + B."""
    for eta in (0.0, 0.3, 0.7):
        chain = flow(200, eta=eta)
        policy = Denoiser(Linear(chain, 1.0, 0.5), chain)
        mean, variance = torch.zeros(1), torch.ones(1)
        for k in range(200):
            found = chain.transition(
                lambda x, t, policy=policy: policy.predict(x, t, None),
                torch.tensor([[0.0], [1.0]]),
                torch.tensor([k] * 2),
            )
            offset, slope = found.mean[0], found.mean[1] - found.mean[0]
            mean, variance = slope * mean + offset, slope**2 * variance + found.std[0] ** 2
        close(mean, [1.0], 0.01)
        close(variance.sqrt(), [0.5], 0.01)


# -- 58: ratios across noise levels ------------------------------------------------------------------------------------


def test_trap_58_the_log_ratio_is_biased_by_minus_half_the_squared_shift_and_centring_removes_it():
    """E_old log r = -|dmu|^2 / (2 sd^2), per dimension if averaged; E_old (log r + KL(old || new)) = 0."""
    for density in (Summed(), Averaged()):
        dims, shift, rng = 4, 0.05, torch.Generator().manual_seed(0)
        averaged = dims if isinstance(density, Averaged) else 1
        before = 1.0
        for sd in (0.5, 0.1, 0.03):
            one = torch.ones(200_000, dims)
            old, new = Transition(0 * one, sd * one, density), Transition(shift * one, sd * one, density)
            x = sd * torch.randn(one.shape, generator=rng)
            change = new.log_prob(x) - old.log_prob(x)
            bias = -dims * shift**2 / (2 * sd**2) / averaged
            spread = math.sqrt(dims) * shift / sd / averaged
            close(change.mean(), bias, 4 * spread / math.sqrt(len(x)))
            close(old.kl(new)[0], -bias, 1e-10)
            close((change + old.kl(new)).mean(), 0.0, 4 * spread / math.sqrt(len(x)))
            if averaged > 1:
                # An average over dimensions is not a density ratio: its mean is below 1, the more so where sd is small.
                mean = float(change.exp().mean())
                assert mean < before
                before = mean
                assert mean == pytest.approx(math.exp(bias + spread**2 / 2), rel=0.02)


class Scored(nn.Module):
    """A policy whose distributions are given."""

    kind = "denoising"

    def __init__(self, dist):
        super().__init__()
        self.mean, self.dist = nn.Parameter(dist.mean.clone()), dist

    def score(self, batch, context=None, *, full=False):
        dist = replace(self.dist, mean=self.mean)
        return Scores(dist.log_prob(batch.step["_next"]), dist.entropy(), dist if full else None)


def surrogates(sds=(0.5, 0.03), rows=4000, shift=0.05):
    """Steps of two noise levels, sampled from the old policy; every mean of the new one is `shift` higher."""
    rng = torch.Generator().manual_seed(0)
    std = torch.tensor(sds)[None, :, None].expand(rows, -1, 2)
    old = Transition(torch.zeros_like(std), std)
    world = DenoisingWorld(torch.tensor(sds), 2, 1)
    batch = world.start(world.tasks(torch.zeros(rows, dtype=torch.int64)))
    for number, sd in enumerate(sds):
        step = sd * torch.randn(rows, 2, generator=rng)
        batch = batch.with_rows({"_clock": torch.full((rows,), number + 1)})
        batch = world.append(batch, step, torch.zeros(rows), torch.ones(rows, dtype=torch.bool), 0)
    return (
        Scored(replace(old, mean=old.mean + shift)),
        Scored(old),
        batch.with_steps({"advantage": torch.ones(rows, 2)}),
    )


def reported(loss):
    policy, old, batch = surrogates()
    roles = {"policy": Role(grad=True, full=True), "old": Role("old", full=True)}
    still = GradientSteps({"policy": SGD(0.0)})
    terms, models = (Term("clip", loss, TokenMean()),), {"old": User("the old policy")}
    method = replace(grpo, objective=terms, constraint=(), roles=roles, update=still, models=models)
    ctx = StageContext(Run({"policy": policy, "old": old}, None, None), Stage(method, 1))
    method.update(ctx, batch)
    return ctx.meter.result()


def test_trap_58_normalised_ratios_are_centred_and_reported_step_by_step():
    plain = reported(ClippedSurrogate(0.2, 0.2))
    centred = reported(CentredSurrogate(0.2, 0.2))
    scaled = reported(CentredSurrogate(0.2, 0.2, scale=lambda batch: torch.tensor([[0.5, 0.03]])))
    # 0.05^2 / (2 * 0.03^2) = 1.39: at low noise most plain ratios are below 1, and the lower clip is met.
    assert plain["clip/ratio"] < 0.9
    assert centred["clip/ratio_at_1"] == pytest.approx(1.0, abs=0.01)
    assert centred["clip/clipped_at_2"] > centred["clip/clipped_at_1"]
    # With the steps' own sd as scale the log-ratio is dmu * xi at every step: its spread no longer depends on sd.
    assert scaled["clip/ratio_at_1"] == pytest.approx(1.0, abs=0.005)
    assert scaled["clip/ratio_at_2"] == pytest.approx(1.0, abs=0.005)
    assert scaled["clip/clipped"] == 0


def test_trap_58_centred_and_plain_agree_at_the_old_policy():
    """Value and gradient: KL(old || new) is 0 and flat there."""
    grads = []
    for loss in (ClippedSurrogate(0.2, 0.2), CentredSurrogate(0.2, 0.2)):
        policy, old, batch = surrogates(shift=0.0)

        class Both:
            def __init__(self, batch):
                self.batch = batch

            def __getitem__(self, role, policy=policy, old=old, batch=batch):
                return (policy if role == "policy" else old).score(batch, full=True)

        value = loss(Both(batch), batch)
        close(value, -torch.ones_like(value))
        grads.append(torch.autograd.grad(value.sum(), policy.mean)[0])
    close(grads[0], grads[1], 1e-10)
    assert grads[0].abs().max() > 0


# -- the loop ----------------------------------------------------------------------------------------------------------


@single_precision()
def test_the_language_methods_run_on_chains_unchanged():
    """GRPO with one initial noise per group lifts a reward that a flow of one Gaussian can reach."""
    chain = flow(6, eta=0.7)
    policy = Denoiser(VectorDenoiser(2, width=16, depth=2), chain)
    world = DenoisingWorld(chain.std, 2, 4, lambda x, task: -(x - 1).square().sum(1))
    method = replace(
        grpo,
        selection=Selection(count=4),
        sampling=Branched(1, 8),
        objective=(Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),),
        constraint=(),
        roles={"old": Role(when="collected")},
        models={},
        update=GradientSteps({"policy": SGD(0.5)}),
    )
    run = Run({"policy": policy}, world, generate)
    rewards = [done.metrics["reward"] for done in rounds(run, Program((Stage(method, 25),)))]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 3
