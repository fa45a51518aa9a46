"""Distributions over a step: densities, entropies and divergences against definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.distributions import widest
from policyopt.types import Categorical, Gaussian
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


def test_categorical_against_the_definition() -> None:
    logits, other = numbers(7, 5, seed=1), numbers(7, 5, seed=2)
    p, q = logits.softmax(-1), other.softmax(-1)
    dist = Categorical.of(logits)
    step = torch.arange(7) % 5
    close(dist.log_prob(step), p.log()[torch.arange(7), step])
    close(dist.kl(Categorical.of(other)), (p * (p / q).log()).sum(-1))
    close(dist.kl(dist), torch.zeros(7))
    close(dist.tempered(torch.full((7,), 0.5)).logp.exp(), (2 * logits).softmax(-1))
    assert dist.mode().tolist() == logits.argmax(-1).tolist()
    close(Categorical.of(logits, 0.5).logp, dist.tempered(torch.full((7,), 0.5)).logp)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    logits = (numbers(3, 1000, seed=3) * 8).to(torch.bfloat16)
    found = Categorical.of(logits).logp
    assert found.dtype == torch.float32
    close(found, logits.double().log_softmax(-1), 1e-5)


def test_gaussian_against_torch_and_by_hand() -> None:
    mean, std, other, width = numbers(4, 3, seed=1), numbers(4, 3, seed=2).exp(), numbers(4, 3, seed=3), 0.7
    first, second = Gaussian(mean, std), Gaussian(other, torch.full((4, 3), width))
    reference = torch.distributions.Normal(mean, std)
    step = numbers(4, 3, seed=5)
    close(first.log_prob(step), reference.log_prob(step).sum(-1))
    close(first.entropy(), reference.entropy().sum(-1))
    close(
        first.kl(second), torch.distributions.kl_divergence(reference, torch.distributions.Normal(other, width)).sum(-1)
    )
    close(first.kl(first), torch.zeros(4))
    close(first.tempered(torch.full((4,), 4.0)).std, 2 * std)
    close(first.sample(torch.full((4, 3), 0.5)), mean)
    close(first.sample(torch.full((4, 3), 0.8413447460685429)), mean + std)
    assert bool(first.sample(torch.zeros(4, 3)).isfinite().all())
    close(Gaussian(torch.zeros(1), torch.ones(1)).log_prob(torch.zeros(1)), -0.5 * math.log(2 * math.pi))


@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4), st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_divergence_is_not_negative_and_entropy_is_bounded(first: list[float], second: list[float]) -> None:
    p, q = Categorical.of(torch.tensor(first)), Categorical.of(torch.tensor(second))
    assert float(p.kl(q)) >= -1e-14
    assert -1e-14 <= float(p.entropy()) <= math.log(4) + 1e-14


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5))
def test_sampling_inverts_the_cumulative_distribution(uniform: list[float]) -> None:
    p = [0.1, 0.0, 0.6, 0.3]
    dist = Categorical(torch.tensor(p).log().expand(len(uniform), 4))
    for u, step in zip(uniform, dist.sample(torch.tensor(uniform)[:, None]).tolist(), strict=True):
        assert p[step] > 0
        assert sum(p[:step]) - 1e-12 <= u <= sum(p[: step + 1]) + 1e-12


def test_devices_without_float64_get_float32() -> None:
    assert widest(torch.device("mps")) == torch.float32
    assert widest(torch.device("cpu")) == torch.float64
    assert widest(torch.device("cuda")) == torch.float64
