"""Cooper: `reduces_to` of specification 30, each identity a test."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from asked import asking, sampled
from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.reward_models import _Answers
from policyopt.methods import load
from policyopt.policies.tabular import Table, TableReward
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.corrupted import GroupAndCorrupted
from policyopt.sampling.samplers import Group
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def world(choices: int = 5) -> _Answers:
    return _Answers(4, choices, 1, lambda s, task: (s[:, 0] == task).double())


def one_round(made: Any, judge: torch.Tensor, rates: tuple[float, float] = (1.0, 1.0)) -> tuple[Run, Any]:
    update = GradientSteps(
        {n: SGD(r) for n, r in zip(("policy", "reward"), rates, strict=True) if n in made.update.optimizers},
        clip_norm=None,
    )
    run = Run({"policy": Table(torch.eye(4, 5)), "reward": TableReward(judge)}, world(), generate, 3)
    return run, next(rounds(run, Program((Stage(replace(made, update=update, constraint=()), 1),))))


def rule() -> torch.Tensor:
    """A reward model whose probability is the rule: 0 or 1 to rounding."""
    return 200.0 * (torch.eye(4, 5) - 0.5)


def test_a_reward_model_that_equals_the_rule_gives_grpo() -> None:
    ours, _ = one_round(load("cooper"), rule())
    theirs, _ = one_round(replace(load("grpo"), sampling=Group(8)), rule())
    moved: Any = ours.models["policy"]
    expected: Any = theirs.models["policy"]
    assert float((expected.logits.detach() - torch.eye(4, 5)).abs().max()) > 1e-2
    close(moved.logits, expected.logits)


def test_without_a_step_of_its_own_the_reward_model_is_frozen() -> None:
    judge = torch.arange(20.0).view(4, 5) / 10
    run, _ = one_round(load("cooper"), judge, (1.0, 0.0))
    held: Any = run.models["reward"]
    assert torch.equal(held.values.detach(), judge)
    run, _ = one_round(load("cooper"), judge)
    moved: Any = run.models["reward"]
    assert not torch.equal(moved.values.detach(), judge)


def test_the_reward_model_takes_the_contrastive_step() -> None:
    judge = torch.arange(20.0).view(4, 5) / 10
    run, done = one_round(load("cooper"), judge)
    rows = done.kept
    expected = judge.clone()
    winners = (rows.row["rank"] == 0).nonzero()[:, 0].tolist()
    assert len(winners) >= 2
    for w in winners:
        (other,) = ((rows.row["pair"] == rows.row["pair"][w]) & (rows.row["rank"] == 1)).nonzero()[:, 0].tolist()
        task, good, bad = (
            int(x) for x in (rows.row["task"][w], rows.step["_step"][w, 0], rows.step["_step"][other, 0])
        )
        gap = float(judge[task, good] - judge[task, bad])
        slope = (1 / (1 + math.exp(gap))) / len(winners)
        expected[task, good] += slope
        expected[task, bad] -= slope
    found: Any = run.models["reward"]
    close(found.values, expected)


def test_pairs_are_right_rows_and_wrong_copies_beside_the_attempts() -> None:
    ctx = asking(GroupAndCorrupted(6), world(), Table(torch.eye(4, 5)), reward=Verified())
    rows = sampled(ctx)
    attempts, pairs = rows[rows.row["rank"] < 0], rows[rows.row["rank"] >= 0]
    assert len(attempts) == 24
    assert (attempts.row["source"] == Source.POLICY).all()
    assert len(attempts.row["pair"].unique()) == 24
    right = attempts.step["reward"].sum(1) > 0.5
    groups = attempts.row["group"][right].unique()
    assert len(groups) >= 2
    assert sorted((-1 - pairs.row["group"]).unique().tolist()) == sorted(groups.tolist())
    assert (pairs.row["source"] == Source.INJECTED).all()
    assert torch.equal(pairs.step["reward"].sum(1), 1.0 - pairs.row["rank"])
    same = sampled(asking(Group(6), world(), Table(torch.eye(4, 5)), reward=Verified()))
    close(attempts.step["behaviour"], same.step["behaviour"])


def test_where_nothing_is_right_no_pair_is_made_and_nothing_moves_the_reward_model() -> None:
    never = replace(world(), reward=lambda s, task: torch.zeros(len(task)))
    rows = sampled(asking(GroupAndCorrupted(3), never, Table(torch.eye(4, 5))))
    assert (rows.row["rank"] == -1).all()
    always = replace(world(), reward=lambda s, task: torch.ones(len(task)))
    rows = sampled(asking(GroupAndCorrupted(3), always, Table(torch.eye(4, 5))))
    assert (rows.row["rank"] == -1).all()  # a copy that the rule accepts is no wrong one
    run = Run({"policy": Table(torch.eye(4, 5)), "reward": TableReward(rule())}, never, generate, 3)
    update = GradientSteps({"policy": SGD(1.0), "reward": SGD(1.0)}, clip_norm=None)
    next(rounds(run, Program((Stage(replace(load("cooper"), update=update), 1),))))
    held: Any = run.models["reward"]
    close(held.values, rule())
    with pytest.raises(CompositionError, match="corrupted"):
        sampled(asking(GroupAndCorrupted(3), None, Table(torch.zeros(12, 2)), reward=Verified()))


def test_the_verifier_learns_the_labels_of_the_rule() -> None:
    made = load("cooper:cooper_verifier")
    run, done = one_round(made, torch.zeros(4, 5), (0.0, 1.0))
    rows = done.kept
    expected = torch.zeros(4, 5)
    for task, step, label in zip(rows.row["task"], rows.step["_step"][:, 0], rows.step["reward"].sum(1), strict=True):
        expected[task, step] += (float(label) - 0.5) / len(rows)
    found: Any = run.models["reward"]
    close(found.values, expected)
