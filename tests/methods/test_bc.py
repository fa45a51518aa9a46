"""Behaviour cloning: its optimum is what was recorded."""

from typing import Any

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.policies.tabular import Table
from references_values import STATES, Pointed, every_transition, forks, iterated, transitions
from support import close, grids, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def test_its_gradient_is_supervised_fine_tunings() -> None:
    batch = ragged(tools=False)
    found = [first_step(load(key), grids(), batch).gradient for key in ("bc", "sft")]
    close(found[0], found[1])
    close(found[0][:4, :13], torch.where(batch.trained, -1.0 / 23, 0.0))


def test_its_optimum_is_the_recorded_frequencies() -> None:
    """Choice 2 dropped in state 1, choice 0 three times as often in state 2."""
    mdp = forks()
    batch = every_transition(mdp)
    state, step = batch.step["_state"][:, 0], batch.step["_step"][:, 0]
    often = ((state == 2) & (step == 0)).nonzero()[:, 0]
    kept = ((state != 1) | (step != 2)).nonzero()[:, 0]
    batch = batch[torch.cat([kept, often, often])]
    run = iterated(load("bc"), {"policy": Table(numbers(5, 3, seed=1))}, batch, 800, {"policy": 8.0})
    found = run.models["policy"].logits.softmax(-1)
    close(found[0], [1 / 3, 1 / 3, 1 / 3], atol=1e-6)
    close(found[1], [0.5, 0.5, 0.0], atol=2e-2)
    close(found[2], [0.6, 0.2, 0.2], atol=1e-6)


def test_squared_is_the_mean_recorded_step() -> None:
    batch = transitions((1,) * 40).with_steps({"_action": 0.5 * numbers(40, 1, 2, seed=3).tanh()})
    run = iterated(load("bc:bc_squared"), {"policy": Pointed(1)}, batch, 800, {"policy": 4.0})
    policy: Any = run.models["policy"]
    for s in range(STATES):
        here = batch.step["_state"][:, 0] == s
        close(policy.mean[s].tanh(), batch.step["_action"][here, 0].mean(0), atol=1e-6)


def test_rewards_do_not_matter() -> None:
    batch = ragged(tools=False)
    other = batch.with_steps({"reward": 100 * batch.step["reward"]})
    close(*(first_step(load("bc"), grids(), rows).gradient for rows in (batch, other)))
