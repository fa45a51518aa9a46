"""CAMPO of MiroMind-M1: `reduces_to` of specification 112."""

from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Grades, first_step
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Finish
from policyopt.worlds.sequences import SequenceWorld
from support import Grid, close, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [1.0, 1.0, 1.0, 0.0]
SAYS = torch.tensor([[1, 2, 3, 4, 5, 6], [2, 2, 2, 2, 2, 2], [1, 2, 3, 1, 2, 3], [7, 4, 5, 4, 5, 0]])
CUT = [int(Finish.TRUNCATED), int(Finish.TRUNCATED), int(Finish.STOPPED), int(Finish.TRUNCATED)]


class Speaks(Grid):
    """A policy that says `SAYS`."""

    def taken(self, batch):
        return SAYS[batch.row["_row"]]


def stepped(made, finish=CUT):
    batch = with_row(ragged((6, 6, 6, 5)), finish=finish)
    models = {"policy": Speaks(logp=numbers(8, 104, scale=0.3) - 1)}
    return first_step(made, models, batch, Grades(GRADES))


def test_without_a_charge_it_is_dapo_without_a_length_penalty() -> None:
    found = stepped(override(load("campo_miromind"), {"reward.weight": 0.0}))
    close(found.gradient, stepped(replace(load("dapo"), reward=Verified())).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_only_rows_that_hit_the_limit_in_a_loop_are_charged() -> None:
    """Row 0 does not repeat; row 2 does, but ended on its own."""
    done = stepped(load("campo_miromind"))
    close(total_reward(done.round.judged), [1.0, 0.9, 1.0, -0.1])
    close(done.advantage, loops.standardised([1.0, 0.9, 1.0, -0.1], [7, 3, 7, 3], [True] * 4))
    ended = stepped(load("campo_miromind"), [int(Finish.STOPPED)] * 4)
    close(total_reward(ended.round.judged), GRADES)
    assert done.round.metrics["looping"] == 0.5


def test_the_adaptive_charge_is_the_repeated_share() -> None:
    done = stepped(override(load("campo_miromind"), {"reward.adaptive": True, "reward.weight": 1.0}))
    close(total_reward(done.round.judged), [1.0, 0.0, 1.0, -4 / 5])


def test_a_group_of_wrong_rows_learns_from_the_charge_alone() -> None:
    batch = with_row(ragged((6, 6, 6, 6)), finish=[int(Finish.TRUNCATED)] * 4, group=[0, 0, 1, 1])
    models = {"policy": Speaks(logp=numbers(8, 104, scale=0.3) - 1)}
    done = first_step(load("campo_miromind"), models, batch, Grades([0.0] * 4))
    assert float(done.advantage[0]) > 0 > float(done.advantage[1])


def test_stages_with_growing_limits_are_a_program() -> None:
    def world(limit: int) -> SequenceWorld:
        return SequenceWorld(2, 3, limit, lambda strings, task: (strings[:, 0] == task).double(), end=2)

    small = override(load("campo_miromind"), {"selection.count": 2, "sampling.size": 4, "sampling.most_draws": 1})
    program = Program((Stage(replace(small, world="short"), 2), Stage(replace(small, world="long"), 2)))
    policy = Table(torch.tensor([0.0, 0.0, -2.0]).expand(16, 3))
    run = Run({"policy": policy}, world(2), generate, 0, {"short": world(4), "long": world(8)})
    longest = [int(done.judged.lengths.max()) for done in rounds(run, program)]
    assert max(longest[:2]) <= 4 < max(longest[2:]) <= 8
