"""Distributions of control policies against definitions, quadrature, torch's own and samples."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policyopt.distributions import (
    Beta,
    Categorical,
    Deterministic,
    Distribution,
    Gaussian,
    MultiCategorical,
    NoDensityError,
    Reparameterised,
    SquashedGaussian,
    epsilon_greedy,
    standard_normal,
)
from policyopt.ops.random import uniforms
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

LEAD = (3, 4)
SIZES = (2, 5, 3)


def gaussian(seed: int, lead: tuple[int, ...] = LEAD, dims: int = 2) -> Gaussian:
    return Gaussian(numbers(*lead, dims, seed=seed), numbers(*lead, dims, seed=seed + 50, scale=0.4).exp())


def beta(seed: int, lead: tuple[int, ...] = LEAD, dims: int = 2) -> Beta:
    return Beta(*(1 + numbers(*lead, dims, seed=seed + k).exp() for k in (0, 50)))


MAKE: dict[str, Callable[[int, tuple[int, ...]], Distribution]] = {
    "categorical": lambda seed, lead: Categorical.of(numbers(*lead, 5, seed=seed)),
    "multi": lambda seed, lead: MultiCategorical.of(numbers(*lead, 10, seed=seed), SIZES),
    "gaussian": gaussian,
    "squashed": lambda seed, lead: SquashedGaussian(gaussian(seed, lead)),
    "deterministic": lambda seed, lead: Deterministic(gaussian(seed, lead).mean, gaussian(seed, lead).std),
    "beta": beta,
}
every = pytest.mark.parametrize("name", MAKE)


def many(dist: Distribution, count: int) -> Distribution:
    """A single distribution, `count` times."""
    return dist[(None,)][torch.zeros(count, dtype=torch.int64)]


def u(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- the protocol -----------------------------------------------------------------------------------------------
@every
def test_protocol_in_both_precisions(name: str) -> None:
    """Shapes, types, indexing of leading axes, detaching, and the distance of a distribution to itself."""
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        first = _cast(MAKE[name](1, LEAD), dtype)
        second = _cast(MAKE[name](2, LEAD), dtype)
        assert isinstance(first, Distribution)
        step = first.sample(u(*LEAD, first.width))
        logp = first.log_prob(step)
        assert logp.shape == LEAD
        assert logp.dtype == dtype
        assert step.dtype == (torch.int64 if name in ("categorical", "multi") else dtype)
        assert first.mode().shape == step.shape
        close(first.kl(first), torch.zeros(LEAD), atol)
        assert bool((first.kl(second) > 0).all())
        close(first.tempered(torch.ones(LEAD, dtype=dtype)).log_prob(step), logp, atol)
        mask = u(*LEAD, seed=3) < 0.5
        index = (torch.tensor([2, 0])[:, None], torch.tensor([1, 3])[:, None])
        for chosen in (mask, index, 1, slice(1, 3)):
            close(first[chosen].log_prob(step[chosen]), logp[chosen], atol)
            close(first[chosen].entropy(), first.entropy()[chosen], atol)
            close(first[chosen].kl(second[chosen]), first.kl(second)[chosen], atol)


def _cast(dist: Distribution, dtype: torch.dtype) -> Distribution:
    values = {
        name: _cast(value, dtype) if isinstance(value, Distribution) else value.to(dtype).requires_grad_()
        for name, value in vars(dist).items()
    }
    return type(dist)(**values)


@every
def test_detached_distributions_have_no_gradient(name: str) -> None:
    dist = _cast(MAKE[name](1, LEAD), torch.float64)
    step = dist.sample(u(*LEAD, dist.width)).detach()
    assert dist.log_prob(step).requires_grad
    assert not dist.detach().log_prob(step).requires_grad


@every
def test_entropy_and_divergence_are_what_samples_say(name: str) -> None:
    """-E[log p] and E[log p - log q] over 40000 samples, within 5 standard errors."""
    count = 40000
    first, second = MAKE[name](5, ()), MAKE[name](6, ())
    samples = many(first, count).sample(uniforms(torch.arange(count), 0, first.width))
    first, second = many(first, count), many(second, count)
    logp, other = first.log_prob(samples), second.log_prob(samples)
    for sampled, exact in ((-logp, first.entropy()[0]), (logp - other, first.kl(second)[0])):
        error = sampled.std() / math.sqrt(count)
        assert abs(float(sampled.mean() - exact)) < 5 * float(error) + 1e-6, name


@every
def test_samples_are_monotone_in_each_uniform_number(name: str) -> None:
    dist = MAKE[name](7, ())
    grid = torch.linspace(0, 1 - 1e-12, 201)[:, None].expand(-1, dist.width)
    assert bool((many(dist, 201).sample(grid).diff(dim=0) >= 0).all())


# -- several choices --------------------------------------------------------------------------------------------
def test_multi_categorical_is_independent_choices() -> None:
    logits, other = numbers(*LEAD, 10, seed=1), numbers(*LEAD, 10, seed=2)
    dist, second = MultiCategorical.of(logits, SIZES), MultiCategorical.of(other, SIZES)
    parts = [Categorical.of(piece) for piece in logits.split(SIZES, -1)]
    others = [Categorical.of(piece) for piece in other.split(SIZES, -1)]
    numbers_ = u(*LEAD, 3)
    step = dist.sample(numbers_)
    for m, part in enumerate(parts):
        assert torch.equal(step[..., m], part.sample(numbers_[..., m : m + 1]))
        assert torch.equal(dist.mode()[..., m], part.mode())
        assert int(step[..., m].max()) < SIZES[m]
    close(dist.log_prob(step), sum(part.log_prob(step[..., m]) for m, part in enumerate(parts)))
    close(dist.entropy(), sum(part.entropy() for part in parts))
    close(dist.kl(second), sum(part.kl(o) for part, o in zip(parts, others, strict=True)))
    heat = 0.5 + u(*LEAD, seed=4)
    close(dist.tempered(heat).log_prob(step), sum(p.tempered(heat).log_prob(step[..., m]) for m, p in enumerate(parts)))
    with pytest.raises(ValueError, match="need 10 logits, not 9"):
        MultiCategorical.of(logits[..., :9], SIZES)


def test_ragged_choices_have_finite_gradients() -> None:
    """The padding is minus infinity; its gradient must be 0, not 0 * inf."""
    for loss in ("log_prob", "entropy", "kl"):
        logits = numbers(*LEAD, 10, seed=1).requires_grad_()
        dist = MultiCategorical.of(logits, SIZES).tempered(torch.full(LEAD, 0.7))
        step = dist.sample(u(*LEAD, 3))
        other = MultiCategorical.of(numbers(*LEAD, 10, seed=2), SIZES)
        value = {"log_prob": dist.log_prob(step), "entropy": dist.entropy(), "kl": dist.kl(other)}[loss]
        value.sum().backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())
        for piece in logits.grad.split(SIZES, -1):  # a constant added to one choice's logits changes nothing
            close(piece.sum(-1), torch.zeros(LEAD), 1e-10)


# -- epsilon-greedy ---------------------------------------------------------------------------------------------
@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=2, max_size=5), st.floats(0, 1))
def test_epsilon_greedy_by_hand(values: list[float], epsilon: float) -> None:
    dist = epsilon_greedy(torch.tensor([values]), torch.tensor([epsilon]))
    best, count = values.index(max(values)), len(values)
    expected = [epsilon / count + (1 - epsilon) * (k == best) for k in range(count)]
    close(dist.logp.exp()[0], expected, 1e-14)
    assert int(dist.mode()[0]) == (best if epsilon < 1 else 0)


def test_greedy_choices_are_always_the_best_and_carry_no_gradient() -> None:
    values = numbers(64, 6, seed=1).requires_grad_()
    dist = epsilon_greedy(values, 0.0)
    assert torch.equal(dist.sample(u(64, 1)), values.argmax(-1))
    assert not dist.logp.requires_grad
    close(dist.entropy(), torch.zeros(64))


# -- squashed ---------------------------------------------------------------------------------------------------
def test_squashed_against_torch() -> None:
    base = gaussian(1)
    torch_one = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(base.mean, base.std), torch.distributions.TanhTransform()
    )
    step = base.sample(u(*LEAD, 2))
    close(SquashedGaussian(base).log_prob(step), torch_one.log_prob(step.tanh()).sum(-1), 1e-9)


def test_squashed_entropy_by_quadrature() -> None:
    """Against adaptive integration, up to standard deviation 2; the stated error."""
    for std, atol in ((0.05, 1e-9), (0.5, 1e-9), (1.0, 1e-7), (2.0, 2e-4), (4.0, 1.2e-2)):
        for mean in (0.0, 1.5, -3.0):
            dist = SquashedGaussian(Gaussian(torch.tensor([mean]), torch.tensor([std])))

            def integrand(v: float, dist: SquashedGaussian = dist) -> float:
                # in the pre-squash variable: the density of u times the log-density of tanh(u)
                at = torch.tensor([v])
                return float(-dist.base.log_prob(at).exp() * dist.log_prob(at))

            points = sorted({0.0, mean})
            exact = scipy.integrate.quad(integrand, mean - 12 * std, mean + 12 * std, limit=400, points=points)[0]
            close(dist.entropy(), exact, atol, f"std {std}, mean {mean}")


def test_squashed_divergence_is_that_of_the_actions() -> None:
    """KL over the action in (-1, 1), integrated, equals the exact one of the bases."""
    first = SquashedGaussian(Gaussian(torch.tensor([0.3]), torch.tensor([0.5])))
    second = SquashedGaussian(Gaussian(torch.tensor([-0.2]), torch.tensor([0.8])))
    action = torch.linspace(-1 + 1e-7, 1 - 1e-7, 2_000_001)[:, None]
    logs = first.log_prob(action.atanh()), second.log_prob(action.atanh())
    integral = torch.trapezoid(logs[0].exp() * (logs[0] - logs[1]), action[:, 0])
    close(first.kl(second), integral, 1e-5)


# -- deterministic ----------------------------------------------------------------------------------------------
def test_a_point_has_no_density() -> None:
    point = Deterministic(numbers(4, 2, seed=1), torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.2, 0.2], [0.0, 0.3]]))
    assert not point.exact
    step = point.mean + 0.01
    assert point.log_prob(step).isnan().tolist() == [True, False, False, True]
    close(point.log_prob(step)[1], Gaussian(point.mean, point.std).log_prob(step)[1])
    close(point.sample(u(4, 2))[0], point.mean[0])
    for what in (point.entropy, lambda: point.kl(point)):
        with pytest.raises(NoDensityError, match="without exploration noise has none"):
            what()
    assert point[1:3].exact
    close(point[1:3].kl(Deterministic(point.mean[1:3] + 0.1, point.std[1:3])), [1.0, 0.25])


def test_nan_of_a_point_does_not_enter_other_gradients() -> None:
    mean = numbers(2, 2, seed=1).requires_grad_()
    dist = Deterministic(mean, torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    logp = dist.log_prob(torch.zeros(2, 2))
    torch.where(logp.isnan(), 0.0, logp).sum().backward()
    assert mean.grad is not None
    assert bool(mean.grad.isfinite().all())
    close(mean.grad[0], torch.zeros(2))


# -- reparameterised --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gaussian", "squashed", "deterministic"])
def test_draws_are_samples_with_a_gradient(name: str) -> None:
    """draw(quantile of u) is sample(u), its density is the step's, and the pathwise gradient equals a difference."""
    dist = MAKE[name](1, LEAD)
    assert isinstance(dist, Reparameterised)
    numbers_ = u(*LEAD, 2)
    step, logp = dist.draw(standard_normal(numbers_))
    close(step, dist.sample(numbers_))
    close(logp, dist.log_prob(step))

    base = gaussian(3, (), 1)
    noise = torch.tensor([0.7])

    def value(mean: Tensor, std: Tensor) -> Tensor:
        made = {"gaussian": Gaussian, "squashed": lambda m, s: SquashedGaussian(Gaussian(m, s))}.get(
            name, Deterministic
        )
        drawn, density = made(mean, std).draw(noise)
        return (drawn.sin() * 2).sum() + 0.3 * density

    assert torch.autograd.gradcheck(value, (base.mean.requires_grad_(), base.std.requires_grad_()))


# -- beta -------------------------------------------------------------------------------------------------------
def test_beta_against_torch() -> None:
    first, second = beta(1), beta(2)
    reference, other = (torch.distributions.Beta(d.a, d.b) for d in (first, second))
    step = first.sample(u(*LEAD, 2))
    close(first.log_prob(step), reference.log_prob(step).sum(-1), 1e-10)
    close(first.entropy(), reference.entropy().sum(-1), 1e-10)
    close(first.kl(second), torch.distributions.kl_divergence(reference, other).sum(-1), 1e-10)
    close(first.sample(torch.full((*LEAD, 2), 0.5)), scipy.stats.beta(first.a, first.b).median())
    bent = Beta(torch.tensor([3.0, 0.5, 1.0]), torch.tensor([2.0, 0.5, 1.0]))
    close(bent.mode(), [2 / 3, 0.5, 0.5])


def test_beta_density_integrates_to_one() -> None:
    grid = torch.linspace(0, 1, 200_001)[1:-1, None]
    for a, b in ((1.0, 1.0), (1.5, 4.0), (20.0, 3.0)):
        density = Beta(torch.tensor([a]), torch.tensor([b])).log_prob(grid).exp()
        close(torch.trapezoid(density, grid[:, 0]), 1.0, 2e-5)


def test_beta_at_a_temperature_is_a_power_of_its_density() -> None:
    dist, heat = beta(1, (), 1), torch.tensor(0.4)
    points = torch.linspace(0.05, 0.95, 19)[:, None]
    gap = dist.tempered(heat).log_prob(points) - dist.log_prob(points) / heat
    close(gap, gap.mean().expand(19), 1e-10)
    with pytest.raises(ValueError, match="can not be made colder"):
        Beta(torch.tensor([0.5]), torch.tensor([0.5])).tempered(torch.tensor(0.1))


@given(st.floats(0, 1, exclude_max=True), st.floats(1, 50), st.floats(1, 50))
def test_beta_samples_stay_inside_in_both_precisions(number: float, a: float, b: float) -> None:
    for dtype in (torch.float32, torch.float64):
        dist = Beta(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype))
        step = dist.sample(torch.tensor([number]))
        assert 0 < float(step) < 1
        assert bool(dist.log_prob(step).isfinite())


# -- samples follow the density ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gaussian", "squashed", "deterministic", "beta"])
def test_the_share_of_samples_in_an_interval_is_the_integral_of_the_density(name: str) -> None:
    """Chi-square over 20 intervals of one dimension, 20000 samples, 0.001 level."""
    build = {
        "gaussian": lambda: gaussian(4, (), 1),
        "squashed": lambda: SquashedGaussian(gaussian(4, (), 1)),
        "deterministic": lambda: Deterministic(gaussian(4, (), 1).mean, gaussian(4, (), 1).std),
        "beta": lambda: beta(4, (), 1),
    }
    dist = build[name]()
    samples = dist.sample(uniforms(torch.arange(20000), 3, 1))[:, 0]
    if name == "squashed":  # its density is over the action
        edges = torch.linspace(-0.999, 0.999, 21)
        samples, fine = samples.tanh(), torch.linspace(-0.999, 0.999, 200_001)
        density = dist.log_prob(fine.atanh()[:, None]).exp()
    else:
        low, high = (0.001, 0.999) if name == "beta" else (-4.0, 4.0)
        edges, fine = torch.linspace(low, high, 21), torch.linspace(low, high, 200_001)
        density = dist.log_prob(fine[:, None]).exp()
    cumulative = torch.cumulative_trapezoid(density, fine)
    expected = torch.cat([cumulative[9_999::10_000][:1], cumulative[9_999::10_000].diff()]).numpy() * 20000
    found = np.histogram(samples.numpy(), edges.numpy())[0]
    kept = expected > 5
    statistic = ((found - expected)[kept] ** 2 / expected[kept]).sum()
    assert statistic < scipy.stats.chi2(int(kept.sum())).ppf(0.999)
