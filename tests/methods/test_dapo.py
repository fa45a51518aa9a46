"""DAPO: token mean, higher upper clip, soft length penalty, informative groups only."""

import math
from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Grades, first_step
from policyopt.compose import Chain
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import OverlongPenalty, Verified
from policyopt.sampling.samplers import DynamicSampling
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import bandit
from support import close, context, grid, grids, method, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def test_dapo_gradient_is_a_token_mean_with_two_clips() -> None:
    batch, models = ragged(), grids()
    old, start = models["old"].logp.detach()[:4, :13].clone(), models["policy"].logp.detach().clone()
    old[0, 0] = start[0, 0] - math.log(1.24)  # between GRPO's upper clip and DAPO's, in a row of A > 0
    done = first_step(load("dapo"), models, batch, Grades(GRADES), old=old)
    advantage = loops.standardised(GRADES, [7, 3, 7, 3], [True] * 4)
    expected = torch.zeros(4, 13)
    for b, t in batch.trained.nonzero().tolist():
        expected[b, t] = loops.clipped(float(start[b, t]), float(old[b, t]), advantage[b], 0.2, 0.28)[1]
    assert abs(float(expected[0, 0])) > 0.5, "not clipped"
    close(done.gradient[:4, :13], expected / int(batch.trained.sum()))


def test_dapo_punishes_long_rows_softly() -> None:
    """0 up to limit - buffer, then linear to -1 at the limit and beyond."""
    short = replace(load("dapo"), reward=Chain((Verified(), OverlongPenalty(limit=12, buffer=6))))
    batch = ragged((1, 6, 9, 13), tools=False)
    done = first_step(short, {"policy": grid(0)}, batch, Grades([1.0] * 4))
    close(total_reward(done.round.judged), [1.0, 1.0, 0.5, 0.0])


def test_dapo_trains_on_mixed_groups_only() -> None:
    """Three of four tasks give the same reward to every choice; the search ends when all were tried often."""
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    world = bandit(rewards)
    sampler = DynamicSampling(size=6, most_draws=4)
    made = method(sampling=sampler, reward=Verified(), selection=Selection(count=1))
    ctx = context(made, {"policy": Table(torch.zeros(4, 2))}, world, generate)
    found = sampler(ctx, _draw(ctx), _judge(ctx))
    assert set(found.row["task"].tolist()) == {2}
    assert set(total_reward(found).tolist()) == {0.0, 1.0}
    assert len(found) == 6
    solved = context(made, {"policy": Table(torch.zeros(4, 2))}, bandit(torch.ones(4, 2)), generate)
    assert len(sampler(solved, _draw(solved), _judge(solved))) == 6, "ends without an informative group"
    assert solved.run.drawn == 4
    assert solved.meter.result()["informative_groups"] == 0.0
    assert solved.meter.result()["reward_drawn"] == 1.0


def test_dapo_reports_the_reward_of_all_drawn_rows() -> None:
    """Groups of rewards 1, 0 and 3 are dropped, but drawn: the mean over all four tasks says so."""
    world = bandit(torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [3.0, 3.0]]))
    sampler = DynamicSampling(size=6, most_draws=1)
    made = method(sampling=sampler, reward=Verified(), selection=Selection(count=4))
    ctx = context(made, {"policy": Table(torch.zeros(4, 2))}, world, generate)
    sampler(ctx, _draw(ctx), _judge(ctx))
    assert ctx.meter.result()["reward_drawn"] == 4.5 / 4
