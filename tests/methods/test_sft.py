"""Supervised fine-tuning: maximum likelihood over all tokens."""

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.types import Tasks
from policyopt.worlds.sequences import bandit
from support import close, grid, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def test_every_trained_token_weighs_the_same() -> None:
    batch = ragged()
    done = first_step(load("sft"), {"policy": grid(0)}, batch)
    tokens = int(batch.trained.sum())
    close(done.gradient[:4, :13], torch.where(batch.trained, -1 / tokens, 0.0))
    logp = grid(0).logp.detach()[:4, :13]
    close(done.round.metrics["loss/likelihood"], -logp[batch.trained].mean())


def test_the_minimiser_has_the_frequencies_of_the_data() -> None:
    """Gradient p - frequency, zero at p = (3, 2, 1) / 6."""
    world, choices = bandit(torch.zeros(1, 3)), torch.tensor([0, 0, 0, 1, 1, 2])
    rows = world.complete(Tasks(torch.zeros(6, dtype=torch.int64)), choices[:, None])
    frequency = torch.tensor([3.0, 2.0, 1.0]) / 6
    for logits in (frequency.log(), numbers(3, seed=1)):
        found = first_step(load("sft"), {"policy": Table(logits[None])}, rows).gradient
        close(found[0], logits.softmax(-1) - frequency)
