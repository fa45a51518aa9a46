"""ReST-RL, first stage: `reduces_to` of specification 11, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.prefixes import PrefixGroup, beginnings
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge, rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


def world(size=4):
    def share(strings, task):
        return torch.where(task == 3, 0.5, (strings == 1).double().mean(1))

    return SequenceWorld(size, 3, 6, share)


def sampled(part, seed=0, of=None):
    of = of or world()
    made = method(sampling=part, reward=Verified(), selection=Selection(of.size))
    ctx = context(made, {"policy": Table(numbers(of.states, 3, seed=2))}, of, generate, seed)
    return part(ctx, _draw(ctx), _judge(ctx))


def test_no_share_and_no_spread_is_plain_grpo() -> None:
    """kappa = 0, s_min = 0: two rounds of the whole method."""
    found = []
    for sampling in (PrefixGroup(size=4, spread=0.0, share=0.0, temperature=1.0), Group(4)):
        made = replace(load("rest_rl"), selection=Selection(4), sampling=sampling)
        made = replace(made, update=GradientSteps({"policy": SGD(1.0)}, clip_norm=None))
        policy = Table(numbers(24, 3, seed=2))
        list(rounds(Run({"policy": policy}, world(), generate, 0), Program((Stage(made, 2),))))
        found.append(policy.logits.detach())
    close(*found)
    assert float((found[0] - numbers(24, 3, seed=2)).abs().max()) > 1e-3


def test_prefixes_are_of_the_first_best_row_and_leave_their_steps_untrained() -> None:
    part = PrefixGroup(size=6, good=0.3, share=1.0, steps=2, temperature=1.0)
    batch = sampled(part)
    given = batch.row["prefix"]
    originals = batch[given == 0]
    reward = total_reward(originals)
    assert bool((given > 0).any())
    for b in (given > 0).nonzero()[:, 0].tolist():
        steps, task = int(given[b]), int(batch.row["task"][b])
        mine = (originals.row["task"] == task).nonzero()[:, 0]
        best = mine[reward[mine].argmax()]
        assert torch.equal(batch.step["_step"][b, :steps], originals.step["_step"][best, :steps])
        assert steps in (2, 4, 5)
        assert not bool(batch.trained[b, :steps].any())
        assert bool(batch.trained[b, steps:].all())
    counts = batch.row["group"].unique(return_counts=True)[1]
    assert counts.tolist() == [6] * len(counts)


def test_as_many_prefixes_as_the_share_of_lines() -> None:
    for share, steps in ((0.5, 1), (1.0, 2), (0.4, 3), (2.0, 6)):
        batch = sampled(PrefixGroup(size=4, good=0.0, share=share, steps=steps, temperature=1.0))
        groups = batch.row["group"][batch.row["prefix"] > 0].unique()
        tasks = batch.row["task"][batch.row["prefix"] == 0].unique()
        lines = math.ceil(6 / steps)
        assert len(groups) == len(tasks) * math.ceil(share * lines)


def test_tasks_whose_rewards_are_alike_are_dropped() -> None:
    """Task 3 always has reward 0.5; with a spread that none has, all attempts come back."""
    batch = sampled(PrefixGroup(size=8, temperature=1.0))
    assert 3 not in batch.row["task"].tolist()
    every = sampled(PrefixGroup(size=8, spread=9.0, temperature=1.0))
    assert len(every) == 32
    assert every.row["prefix"].tolist() == [0] * 32


def test_tasks_without_a_good_row_stay_without_prefixes() -> None:
    batch = sampled(PrefixGroup(size=8, good=2.0, temperature=1.0))
    assert len(batch) > 0
    assert int(batch.row["prefix"].max()) == 0


def test_beginnings_are_drawn_with_decaying_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = beginnings(4, 40_000, 0.5, rng)
    share = torch.bincount(drawn, minlength=5)[1:] / 40_000
    close(share, torch.tensor([8.0, 4.0, 2.0, 1.0]) / 15, 0.01)
    uniform = torch.bincount(beginnings(4, 40_000, 1.0, rng), minlength=5)[1:] / 40_000
    close(uniform, torch.full((4,), 0.25), 0.01)


def test_prefixes_raise_the_spread_of_rewards_inside_groups() -> None:
    """All right or nothing, nearly solved up to the end: from a right beginning rewards differ."""
    hard = SequenceWorld(1, 4, 5, lambda strings, task: (strings == 1).all(1).double())
    spreads: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(20):
        batch = sampled(PrefixGroup(size=64, good=1.0, share=1.0, decay=1.0, steps=1, temperature=1.0), seed, hard)
        for group in batch.row["group"].unique():
            mine = batch.row["group"] == group
            spreads[bool((batch.row["prefix"][mine] > 0).any())].append(
                float(total_reward(batch)[mine].std(correction=0))
            )
    mean = {given: sum(found) / len(found) for given, found in spreads.items()}
    assert mean[True] > 2 * mean[False]


def test_refusals_and_settings() -> None:
    for broken in ({"spread": -1.0}, {"decay": 0.0}, {"steps": 0}, {"share": -0.1}):
        with pytest.raises(CompositionError):
            PrefixGroup(**broken)
    part = load("rest_rl").sampling
    assert (part.spread, part.good, part.share, part.decay, part.temperature) == (0.05, 0.9, 0.5, 0.95, 0.7)
