"""ReDit: `reduces_to` of specification 96."""

from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Grades, first_step
from policyopt.compose import Chain
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.reward.dithering import Dithered
from policyopt.reward.parts import Verified
from support import close, grid, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.0, 1.0, 1.0, 1.0]  # rows 0 and 2 are one group, 1 and 3 a group of equal rewards
GROUPS = [7, 3, 7, 3]


def dithered(part):
    return replace(load("redit"), reward=Chain((Verified(), part)))


def test_without_width_it_is_grpo() -> None:
    batch, old = ragged(), grids()["old"].logp.detach()[:4, :13]
    found = first_step(dithered(Dithered(0.0)), grids(), batch, Grades(GRADES), old=old)
    close(found.gradient, first_step(load("grpo"), grids(), batch, Grades(GRADES), old=old).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_it_is_grpo_on_the_noisy_rewards() -> None:
    done = first_step(load("redit"), grids(), ragged(), Grades(GRADES))
    noisy = total_reward(done.round.judged)
    assert 0 < float((noisy - torch.tensor(GRADES)).abs().max()) <= 0.05
    close(done.advantage, loops.standardised(noisy.tolist(), GROUPS, [True] * 4))
    same = first_step(load("grpo"), grids(), ragged(), Grades(noisy))
    close(done.gradient, same.gradient)


def test_a_group_of_equal_rewards_learns_noise_of_unit_spread_whatever_the_width() -> None:
    batch = ragged((2,) * 8)
    advantages = []
    for width in (0.01, 0.05, 0.5):
        done = first_step(dithered(Dithered(width)), {"policy": grid(0)}, batch, Grades([1.0] * 8))
        for rows in (slice(0, 8, 2), slice(1, 8, 2)):
            close(done.advantage[rows].sum(), 0.0, 1e-10)
            assert float(done.advantage[rows].std()) == pytest.approx(1.0, abs=2e-3)
        advantages.append(done.advantage)
    close(advantages[0], advantages[2], 1e-3)


def test_a_width_below_the_floor_of_the_division_is_damped() -> None:
    """a = 5e-7 with a delta of 1e-6: std about 0.2."""
    batch = ragged((1,) * 8)
    done = first_step(dithered(Dithered(5e-7)), {"policy": grid(0)}, batch, Grades([0.0] * 8))
    assert 0.1 < float(done.advantage[::2].std()) < 0.4


def test_without_division_by_the_spread_the_noise_keeps_its_width() -> None:
    batch = ragged((2,) * 8)
    found = [
        first_step(
            replace(load("dr_grpo"), reward=Chain((Verified(), Dithered(width)))),
            {"policy": grid(0)},
            batch,
            Grades([1.0] * 8),
        ).advantage
        for width in (0.05, 0.5)
    ]
    close(10 * found[0], found[1])


def test_unscored_rows_stay_out() -> None:
    done = first_step(load("redit"), grids(), ragged(), Grades([0.0, float("nan"), 1.0, 1.0]))
    assert float(done.round.judged.step["reward"][1].abs().max()) == 0.0
    assert float(done.advantage[3]) == 0.0, "alone in its group"
