"""GHPO: `reduces_to` of specification 53, levels one after another, hints that are context and never trained."""

from dataclasses import replace

import pytest
import torch

from asked import asking, same_rows, sampled
from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._told import HintedStrings
from policyopt.evaluation.experiments._worlds import all_right, share_right
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.sampling.told import HintedGroup
from policyopt.train import rounds
from policyopt.types import Batch, StepKind
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

SOLUTION = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1], [1, 1, 1, 0]])


def lock(right=all_right) -> HintedStrings:
    return HintedStrings(SequenceWorld(3, 3, 4, lambda s, t: right(SOLUTION)(s, t).double()), SOLUTION)


def knows(first: int, blind: int = 0) -> Table:
    """A policy that writes the solution from place `first` on, and a wrong symbol before (task `blind` only)."""
    logits = torch.zeros(3, 4, 3)
    logits.scatter_(2, SOLUTION[..., None], 60.0)
    logits[blind, :first] = 60.0 * torch.nn.functional.one_hot((SOLUTION[blind, :first] + 1) % 3, 3).double()
    return Table(logits.reshape(12, 3))


def groups(part: HintedGroup, policy: Table, **given) -> Batch:
    return sampled(asking(part, lock(), policy, 3, **given))


def test_without_failures_it_is_grpo() -> None:
    rows = groups(HintedGroup(size=4), knows(0))
    same_rows(rows, sampled(asking(Group(4), lock(), knows(0), 3)))
    assert rows.row["hint"].tolist() == [0.0] * 12


def test_before_its_start_it_is_grpo() -> None:
    policy = Table(numbers(12, 3, seed=2))
    rows = groups(HintedGroup(size=4, start=3), policy)
    same_rows(rows, sampled(asking(Group(4), lock(), policy, 3)))
    ctx = asking(HintedGroup(size=4, start=3), lock(), policy, 3)
    ctx.run.step = 3
    assert max(sampled(ctx).row["hint"].tolist()) > 0.0


@pytest.mark.parametrize(("needed", "level", "steps"), [(1, 0.25, 1), (2, 0.5, 2), (3, 0.75, 3), (4, 0.75, 3)])
def test_the_first_level_that_succeeds_is_the_last(needed: int, level: float, steps: int) -> None:
    """Task 0 needs so many symbols of its solution; the others are solved at once."""
    rows = groups(HintedGroup(size=2), knows(needed))
    for task, hint in ((0, level), (1, 0.0), (2, 0.0)):
        mine = rows[rows.row["task"] == task]
        assert mine.row["hint"].tolist() == [hint] * 2
        assert len(mine.row["group"].unique()) == 1
        own = 4 - (steps if task == 0 else 0)
        assert mine.lengths.tolist() == [own] * 2
        assert total_reward(mine).tolist() == [float(task > 0 or needed < 4)] * 2
    first = rows[rows.row["task"] == 0]
    assert first.step["_step"][0, :steps].tolist() == SOLUTION[0, :steps].tolist()
    assert (first.step["kind"][0, :steps] == StepKind.HINT).all()


def test_a_bonus_for_form_must_not_stop_the_hints() -> None:
    """right is the reward that counts as success: here 0.75 of the symbols is none."""
    for right, hints in ((0.0, {0.0}), (0.8, {0.25, 0.0})):
        world = lock(share_right)
        rows = sampled(asking(HintedGroup(size=2, right=right), world, knows(1), 3))
        assert set(rows.row["hint"].tolist()) == hints


def test_hints_are_context_and_have_no_gradient() -> None:
    """A hinted group is GRPO at the hinted state: logits of the places shown do not move."""
    made = override(load("ghpo"), {"selection.count": 3, "sampling.size": 16, "constraint.kl.weight": 0.0})
    policy = Table(torch.zeros(12, 3))
    run = Run({"policy": policy}, lock(), generate, 1)
    done = next(rounds(run, Program((Stage(made, 1),))))
    moved, chosen = policy.logits.detach().abs().sum(1), done.kept.step["_state"][done.kept.own].unique()
    never = [state for state in range(12) if state not in chosen.tolist()]
    assert never  # places that every row of their task was shown
    assert float(moved[never].max()) == 0.0
    assert float(moved[chosen].max()) > 0.0
    assert not bool((done.kept.step["train"] & (done.kept.step["kind"] == StepKind.HINT)).any())


def test_gradient_of_a_hinted_group_against_a_loop() -> None:
    """One lock, hint of three symbols: only the last place learns, from standardised rewards."""
    made = override(load("ghpo"), {"selection.count": 3, "sampling.size": 8, "constraint.kl.weight": 0.0})
    made = replace(made, update=GradientSteps({"policy": SGD(1.0)}, clip_norm=None))
    logits = knows(3).logits.detach().clone()
    logits[3] = 0.0
    policy = Table(logits)
    run = Run({"policy": policy}, lock(), generate, 4)
    done = next(rounds(run, Program((Stage(made, 1),))))
    mine = done.kept[done.kept.row["task"] == 0]
    assert set(mine.row["hint"].tolist()) == {0.75}
    reward = total_reward(mine)
    advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
    step = torch.zeros(3)
    for b in range(8):
        step += advantage[b] * (torch.eye(3)[mine.step["_step"][b, 3]] - torch.full((3,), 1 / 3)) / 24
    assert float(step.abs().max()) > 1e-3
    close(policy.logits.detach()[3], step, 1e-9)
    close(policy.logits.detach()[:3], logits[:3], 1e-9)


def test_levels_are_checked() -> None:
    with pytest.raises(CompositionError, match="ascending"):
        HintedGroup(levels=(0.5, 0.25))
    with pytest.raises(CompositionError, match="'hint'"):
        sampled(asking(HintedGroup()))
