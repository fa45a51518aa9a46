"""Dr. GRPO: centred advantages over a configured constant; GRPO's without its two divisions."""

import pytest
import torch

import loops
from enumeration import Grades, first_step
from policyopt.methods import load
from support import close, grid, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def test_dr_grpo_first_gradient() -> None:
    """-(R_i - mean R) / (rows * 1024) on every trained step, whatever the row's length."""
    batch = ragged()
    done = first_step(load("dr_grpo"), {"policy": grid(0)}, batch, Grades(GRADES))
    advantage = torch.tensor(loops.centred(GRADES, [7, 3, 7, 3], [True] * 4))
    close(advantage, [0.75, -1.0, -0.75, 1.0])
    close(done.gradient[:4, :13], torch.where(batch.trained, -advantage[:, None] / 4 / 1024, 0.0))


def test_dr_grpo_is_grpo_times_spread_and_length() -> None:
    batch = ragged()
    grpo = first_step(load("grpo"), {"policy": grid(0)}, batch, Grades(GRADES)).gradient[:4, :13]
    dr_grpo = first_step(load("dr_grpo"), {"policy": grid(0)}, batch, Grades(GRADES)).gradient[:4, :13]
    spread = torch.tensor([1.5, 2.0, 1.5, 2.0]) / 2**0.5 + 1e-6  # std of two numbers: distance / sqrt 2
    close(dr_grpo, grpo * (spread * batch.trained.sum(1) / 1024)[:, None])
