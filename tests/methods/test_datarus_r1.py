"""Datarus-R1: `reduces_to` of specification 29."""

import math
from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Fixed, first_step
from policyopt.compose import Program, Stage
from policyopt.evaluation.experiments.named_grades import between
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.reward.heads import HeadSum
from policyopt.run import Run
from policyopt.train import rounds
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

TAGS, STEPS, WHOLE = [1.0, 0.5, 0.0, 1.0], [0.0, 0.5, 1.0, 0.25], [0.0, 1.0, 1.0, 0.5]
SEMANTIC = [(s + w) / 2 for s, w in zip(STEPS, WHOLE, strict=True)]
GROUPS = [7, 3, 7, 3]


def world(grade=TAGS):
    return Said(heads={"tags": TAGS, "steps": STEPS, "whole": WHOLE}, grade=grade)


def with_weight(w):
    return replace(load("datarus_r1"), reward=HeadSum({"tags": w, "steps": (1 - w) / 2, "whole": (1 - w) / 2}))


def test_structure_alone_and_semantics_alone_are_grpo_on_them() -> None:
    for weight, grades in ((1.0, TAGS), (0.0, SEMANTIC)):
        found = first_step(with_weight(weight), grids(), ragged(), world())
        base = first_step(load("grpo"), grids(), ragged(), world(grades))
        close(found.gradient, base.gradient)
        assert float(found.gradient.abs().max()) > 1e-2


def test_a_constant_weight_is_a_fixed_sum() -> None:
    done = first_step(with_weight(0.3), grids(), ragged(), world())
    expected = [0.3 * t + 0.7 * s for t, s in zip(TAGS, SEMANTIC, strict=True)]
    close(total_reward(done.round.judged), expected)
    close(done.advantage, loops.standardised(expected, GROUPS, [True] * 4))


def test_the_weight_goes_along_a_cosine_over_the_rounds() -> None:
    made = replace(load("datarus_r1"), sampling=Fixed(ragged()))
    run = Run(grids(), world(), None)
    for n, done in enumerate(rounds(run, Program((Stage(made, 5),)))):
        w = 0.1 + 0.4 * (1 + math.cos(math.pi * n / 4))
        close(total_reward(done.judged), [w * t + (1 - w) * s for t, s in zip(TAGS, SEMANTIC, strict=True)])
        close(done.metrics["reward:whole"], sum(WHOLE) / 4)


def test_every_stage_begins_its_own_curriculum() -> None:
    made = replace(load("datarus_r1"), sampling=Fixed(ragged()))
    run = Run(grids(), world(), None)
    found = [total_reward(d.judged) for d in rounds(run, Program((Stage(made, 3), Stage(made, 3))))]
    close(found[0], found[3])
    assert float((found[0] - found[2]).abs().max()) > 0.1


def test_steps_of_a_tool_are_not_trained() -> None:
    batch = ragged()
    done = first_step(load("datarus_r1"), grids(), batch, world())
    assert float(done.gradient[:4, :13][~batch.trained].abs().max()) == 0.0


def test_what_stands_between_two_tags() -> None:
    assert between([3, 1, 2, 4, 5, 0, 6], 3, 4) == [1, 2]
    assert between([4, 1, 2, 3, 5, 0, 6], 3, 4) == []
    assert between([3, 1, 2, 4, 3, 0, 6], 3, 4) == []
    assert torch.equal(torch.tensor(between([3, 4], 3, 4)), torch.tensor([]))
