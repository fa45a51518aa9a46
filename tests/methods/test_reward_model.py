"""The reward model of preferences as a method of its own: what a stage of it trains, and what it leaves alone."""

import math

import pytest
import torch

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table, TableReward
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.sequences import PairedWorld, SequenceWorld

pytestmark = pytest.mark.usefixtures("float64")
SMALL = {"selection.count": 4, "update.learning_rate": 0.1, "update.schedule": "constant", "update.clip_norm": None}
PLAIN = {**SMALL, "update.optimizers.reward": {"part": "sgd", "learning_rate": 0.5}}


def pairs() -> PairedWorld:
    """Choice 1 over 0, 2 over 1, 2 over 0, 1 over 0."""
    order = torch.tensor([[1, 0], [2, 1], [2, 0], [1, 0]])
    task = torch.zeros(4, dtype=torch.int64)
    return PairedWorld(SequenceWorld(1, 3, 1, lambda s, t: s[:, 0], pairs=order[:, :, None], pair_tasks=task))


def trained(steps, changes=SMALL, reward=None):
    models = {"policy": Table(torch.tensor([[0.3, -0.1, 0.2]])), **({} if reward is None else {"reward": reward})}
    run = Run(models, pairs(), generate)
    done = list(rounds(run, Program((Stage(override(load("reward_model"), changes), steps),))))
    return run, done


def test_the_policy_does_not_move_and_the_reward_model_does():
    run, done = trained(20)
    assert torch.equal(run.models["policy"].logits.detach(), torch.tensor([[0.3, -0.1, 0.2]]))
    values = run.models["reward"].values.detach()[0]
    assert values[2] > values[1] > values[0]
    assert done[-1].metrics["reward/accuracy"] == 1.0


def test_the_loss_at_equal_rewards_is_log_two():
    _, done = trained(1, reward=TableReward(torch.zeros(1, 3)))
    assert done[0].metrics["loss/reward"] == pytest.approx(math.log(2))


def test_one_step_is_the_slope_of_the_mean_over_pairs():
    """d/dr of -mean log sigma(r_w - r_l) at r = 0: half of how much more often each wins than it loses, over pairs."""
    run, _ = trained(1, PLAIN, TableReward(torch.zeros(1, 3)))
    wins, losses = torch.tensor([0.0, 2.0, 2.0]), torch.tensor([3.0, 1.0, 0.0])
    expected = 0.5 * 0.5 * (wins - losses) / 4
    torch.testing.assert_close(run.models["reward"].values.detach()[0], expected)


def test_a_constant_is_left_open():
    runs = [trained(5, PLAIN, TableReward(torch.full((1, 3), level)))[0] for level in (0.0, 7.0)]
    one, other = (run.models["reward"].values.detach()[0] for run in runs)
    torch.testing.assert_close(other - one, torch.full((3,), 7.0))
