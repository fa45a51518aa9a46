"""Stages that begin from an earlier one: several methods continue one policy, whatever ran in between."""

import copy
from dataclasses import replace

import pytest
import resume_cases as cases
import torch
from test_resume import same

from policyopt.compose import Cell, CompositionError, Program, Stage
from policyopt.methods import load
from policyopt.train import rounds

COUNT = Cell("rounds of this branch", lambda: 0)


def counting(method):
    """The method, with a cell that counts its rounds."""

    def count(ctx, done):
        ctx[COUNT] = ctx[COUNT] + 1

    return replace(cases._small(load(method)), after=(count,))


def program():
    """One imitation, then PPO twice and GRPO, all three from it."""
    ppo = counting("ppo")
    return Program(
        (
            Stage(counting("sft"), 3, keeps="imitated"),
            Stage(ppo, 2, keeps="one", begins="imitated"),
            Stage(ppo, 2, keeps="two", begins="imitated"),
            Stage(counting("grpo"), 2, begins="imitated"),
        )
    )


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_every_branch_begins_from_the_kept_policy_its_cells_and_a_critic_of_its_own():
    run, found = cases.new_run("ppo"), []
    plan = program()
    for _ in rounds(run, plan):
        found.append((values(run.models["policy"]), run.cells[COUNT.name]))
    kept = values(run.models["imitated"])
    assert same(found[2][0], kept)
    for first in (3, 5, 7):
        assert not same(found[first][0], kept)
    # What a branch starts from is what the kept policy is: the reference is a copy of it made on entering.
    assert same(values(run.models["reference"]), kept)
    assert not any(p.requires_grad for p in run.models["imitated"].parameters())
    assert [count for _, count in found] == [1, 2, 3, 4, 5, 4, 5, 4, 5]
    assert plan.stages[1].anew == plan.stages[2].anew == ("critic",)
    alone = cases.new_run("ppo")
    list(rounds(alone, Program((plan.stages[0], replace(plan.stages[1], keeps="", begins="")))))
    assert same(values(alone.models["policy"]), values(run.models["one"]))


def test_a_critic_of_another_branch_is_not_gone_on_with():
    """Two equal branches, sampling with equal numbers, end equal: nothing of the first leaks into the second."""
    plan, run = program(), cases.new_run("ppo")
    # Every round draws the same numbers, so that only what is carried over could tell the branches apart.
    run.rng = lambda purpose: torch.Generator().manual_seed(len(purpose))  # type: ignore[method-assign]
    list(rounds(run, Program(plan.stages[:3])))
    assert same(values(run.models["one"]), values(run.models["two"]))


def test_branches_go_on_bitwise_after_a_restart_before_any_round():
    plan = program()
    run, states, metrics = cases.new_run("ppo"), [], []
    for done in rounds(run, plan):
        metrics.append(repr(dict(done.metrics)))
        states.append(copy.deepcopy(run.state()))
    for step in range(1, plan.steps):
        again = cases.new_run("ppo")
        again.load_state(states[step - 1], plan)
        assert [repr(dict(done.metrics)) for done in rounds(again, plan)] == metrics[step:]
        assert same(again.state(), states[-1]), f"states differ after a restart before round {step}"


def test_models_that_were_there_before_the_branch_are_gone_on_with():
    ppo = counting("ppo")
    shared = Program((Stage(ppo, 1, keeps="first"), Stage(ppo, 1, begins="first")))
    assert shared.stages[1].anew == ()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Stage(counting("grpo"), 1, begins="nothing"),), "no earlier stage"),
        ((Stage(counting("sft"), 0, keeps="a"), Stage(counting("grpo"), 1, begins="a")), "one round or more"),
        ((Stage(counting("sft"), 1, keeps="a"), Stage(counting("grpo"), 1, keeps="a")), "different names"),
    ],
)
def test_branches_of_nothing_are_refused(stages, said):
    with pytest.raises(CompositionError, match=said):
        Program(stages)


def test_a_run_without_branches_keeps_nothing():
    run = cases.new_run("sft")
    list(rounds(run, Program((Stage(cases._small(load("sft")), 2),))))
    assert set(run.models) == {"policy"}
    assert not any(name.startswith("kept") for name in run.cells)
