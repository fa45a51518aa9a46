"""Losses on pairs that are known by name: numbers worked by hand at known log-ratios, and what TRL computes."""

import math

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.options import override
from support import close, grid, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

W, L = 0.8, -0.6
"""Log-ratios of the chosen and the rejected row, spread over rows of two steps: 0.4 and -0.3 a step."""


def logistic(z):
    return math.log1p(math.exp(-z))


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def loss_of(key, **given):
    batch, models = ragged((2, 2, 2, 2)), grids()
    with torch.no_grad():
        models["policy"].logp.copy_(models["reference"].logp)
        models["policy"].logp[:2] += W / 2
        models["policy"].logp[2:] += L / 2
    made = override(load(f"dpo:{key}"), given)
    return first_step(made, models, batch).round.metrics["loss/preference"]


def shares(z, wrong):
    p = sigmoid(z)
    return p * math.log(p / (1 - wrong)) + (1 - p) * math.log((1 - p) / wrong)


@pytest.mark.parametrize(
    ("key", "beta", "expected"),
    [
        ("ipo", 0.1, (W - L - 1 / (2 * 0.1)) ** 2),
        ("ipo_mean", 0.5, (W / 2 - L / 2 - 1 / (2 * 0.5)) ** 2),
        ("slic", 0.5, 1 - 0.5 * (W - L)),
        ("cdpo", 0.5, 0.9 * logistic(0.5 * (W - L)) + 0.1 * logistic(-0.5 * (W - L))),
        ("exo", 0.5, shares(0.5 * (W - L), 1e-3)),
        ("nca", 0.5, logistic(0.5 * W) + 0.5 * logistic(-0.5 * W) + 0.5 * logistic(-0.5 * L)),
        ("apo_zero", 0.5, 1 - sigmoid(0.5 * W) + sigmoid(0.5 * L)),
        ("apo_down", 0.5, sigmoid(0.5 * W) + 1 - sigmoid(0.5 * (W - L))),
        ("sppo_hard", 0.5, (W - 1) ** 2 + (L + 1) ** 2),
        ("bco", 0.5, (logistic(0.5 * (W - 0.1)) + logistic(-0.5 * (L - 0.1))) / 2),
        ("kto", 0.5, (1 - sigmoid(0.5 * (W - 0.1)) + 1 - sigmoid(-0.5 * (L - 0.1))) / 2),
    ],
)
def test_values_by_hand(key, beta, expected) -> None:
    close(loss_of(key, **{"objective.beta": beta}), expected)


def test_discopop_by_hand() -> None:
    z = 0.05 * (W - L)
    share = sigmoid(z / 0.05)
    close(loss_of("discopop"), logistic(z) * (1 - share) + math.exp(-z) * share)


def test_f_divergence_by_hand() -> None:
    def tilt(rho):
        return math.log(2) - math.log1p(math.exp(-rho))

    close(loss_of("fdpo", **{"objective.beta": 0.5}), logistic(0.5 * (tilt(W) - tilt(L))))


def test_simpo_and_cpo_need_no_reference() -> None:
    """Means (SimPO, beta 2, gamma 1) and sums (CPO) of the policy's own log-probabilities."""
    batch = ragged((2, 2, 4, 4))
    logp = grid(0).logp.detach()[:4, :4]
    total = torch.where(batch.trained, logp, 0.0).sum(1)
    mean = total / batch.trained.sum(1)
    for key, margin in (("simpo", 2 * (mean[:2] - mean[2:]) - 1), ("cpo", 0.1 * (total[:2] - total[2:]))):
        done = first_step(load(f"dpo:{key}"), {"policy": grid(0)}, batch)
        close(done.round.metrics["loss/preference"], torch.nn.functional.softplus(-margin).mean())
        assert set(done.run.models) == {"policy"}
    assert done.round.metrics["loss/imitation"] > 0


@pytest.mark.parametrize("key", ["cdpo", "slic", "ipo", "apo_zero", "nca", "exo", "bco", "kto"])
def test_every_one_raises_the_chosen_above_the_rejected(key) -> None:
    """At the reference the gradient of the chosen row is below that of the rejected one, step by step."""
    batch = ragged((2, 2, 2, 2))
    found = first_step(load(f"dpo:{key}"), {"policy": grid(0)}, batch).gradient[:4, :2]
    assert bool((found[:2] < found[2:]).all())
