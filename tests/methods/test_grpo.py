"""GRPO: the identities of its advantage and of its first gradient, and the whole method against loops."""

import pytest
import torch

import loops
from enumeration import Grades, first_step
from policyopt.methods import load
from support import close, grid, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]
GROUPS = [7, 3, 7, 3]


def step_weights(batch) -> torch.Tensor:
    """1 / (rows * length) on trained steps."""
    count = batch.trained.sum(1, keepdim=True)
    return torch.where(batch.trained, 1 / (4.0 * count), 0.0)


def test_grpo_first_gradient() -> None:
    """At ratio 1 and policy = reference: -mean_i A_i mean_t grad log pi, A standardised with n - 1."""
    batch = ragged()
    done = first_step(load("grpo"), {"policy": grid(0)}, batch, Grades(GRADES))
    advantage = torch.tensor(loops.standardised(GRADES, GROUPS, [True] * 4))
    close(done.advantage, advantage)
    close(done.advantage, [0.5**0.5, -(0.5**0.5), -(0.5**0.5), 0.5**0.5], atol=1e-5)
    close(done.gradient[:4, :13], -advantage[:, None] * step_weights(batch))


def test_grpo_gradient_off_the_old_policy_and_off_the_reference() -> None:
    """Clipped ratios and 0.04 times the KL term, by loops."""
    batch, models = ragged(), grids()
    old, start = models["old"].logp.detach()[:4, :13], models["policy"].logp.detach().clone()
    reference = models["reference"].logp.detach()
    done = first_step(load("grpo"), models, batch, Grades(GRADES), old=old)
    advantage, expected, clipped = loops.standardised(GRADES, GROUPS, [True] * 4), torch.zeros(4, 13), 0
    for b, t in batch.trained.nonzero().tolist():
        policy, other = float(start[b, t]), float(old[b, t])
        _, slope = loops.clipped(policy, other, advantage[b], 0.2, 0.2)
        _, pull = loops.kl_term(policy, other, float(reference[b, t]))
        expected[b, t] = slope + 0.04 * pull
        clipped += slope == 0.0
    assert 0 < clipped < int(batch.trained.sum())
    close(done.gradient[:4, :13], expected * step_weights(batch))


def test_grpo_ignores_a_constant_in_the_rewards_and_their_scale() -> None:
    base = first_step(load("grpo"), {"policy": grid(0)}, ragged(), Grades(GRADES)).gradient
    for factor, shift in ((1.0, 5.0), (3.0, -2.0)):
        grades = [factor * g + shift for g in GRADES]
        moved = first_step(load("grpo"), {"policy": grid(0)}, ragged(), Grades(grades)).gradient
        close(moved, base, atol=1e-6)
    assert float(base.abs().max()) > 1e-3


def test_grpo_learns_nothing_from_equal_rewards() -> None:
    done = first_step(load("grpo"), {"policy": grid(0)}, ragged(), Grades([0.1] * 4))
    close(done.gradient, torch.zeros_like(done.gradient), atol=0.0)
