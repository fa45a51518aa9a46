"""RefCritic: `reduces_to` of specification 247, each identity a test."""

from typing import Any

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.annotators import Criticised, Solver
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.refinement import RefinementReward
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Tasks
from support import close, context, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")
WRONG = torch.tensor([2, -1, 0, -1])


def world() -> Criticised:
    return Criticised(4, 3, 2, lambda s, t: (s[:, 0] == (WRONG[t] < 0).long()).double(), wrong=WRONG)


def critiques(*rows: tuple[int, int, int]) -> Any:
    """(task, verdict, named digit), with the reward of their verdict."""
    made = world()
    batch = made.complete(Tasks(torch.tensor([r[0] for r in rows])), torch.tensor([r[1:] for r in rows]))
    return batch.with_steps({"reward": torch.stack([torch.zeros(len(rows)), made.grade(batch)], 1)})


def paid(part: RefinementReward, batch: Any, able: float = 1.0, lucky: float = 0.0, seed: int = 0) -> torch.Tensor:
    ctx = context(method(), {**grids(), "solver": Solver(able, lucky)}, world(), generate, seed)
    return part(ctx, batch).step["reward"]


def test_rewards_by_hand() -> None:
    """Right verdict and digit; right verdict, other digit; a false alarm that names a digit; missed; rightly passed."""
    batch = critiques((0, 0, 2), (0, 0, 1), (1, 0, 2), (0, 1, 2), (1, 1, 0))
    found = paid(RefinementReward(weight=0.5, count=3), batch)
    close(found[:, 0], torch.zeros(5))
    close(found[:, 1], [1.5, 1.0, 0.0, 0.0, 1.0])


def test_the_share_of_refinements_estimates_the_solvers_chance() -> None:
    batch = critiques(*[(0, 0, 2)] * 5, *[(2, 0, 2)] * 5)
    found = paid(RefinementReward(count=400), batch, able=0.8, lucky=0.3)[:, 1] - 1
    assert float((found[:5] - 0.8).abs().max()) < 0.08
    assert float((found[5:] - 0.3).abs().max()) < 0.1
    assert len(found.unique()) > 5  # every critique has refinements of its own
    cold = paid(RefinementReward(count=5, temperature=0.0), batch, able=0.8, lucky=0.3)[:, 1] - 1
    close(cold, [1.0] * 5 + [0.0] * 5)


def test_where_no_solution_is_rightly_called_wrong_nothing_is_refined() -> None:
    batch = critiques((1, 0, 2), (0, 1, 2))
    assert torch.equal(paid(RefinementReward(), batch, lucky=1.0), batch.step["reward"])  # a false alarm earns nothing
    aside = critiques((0, 0, 2)).with_rows({"scored": torch.tensor([False])})
    assert torch.equal(paid(RefinementReward(), aside), aside.step["reward"])


def test_without_weight_it_is_verdict_only_grpo() -> None:
    options, moved = {"selection.count": 4, "update.learning_rate": 0.1}, []
    without = override(load("refcritic"), {**options, "reward.refinement_reward.weight": 0.0})
    for made in (without, override(load("refcritic:refcritic_verdicts"), options)):
        policy = Table(numbers(8, 3, seed=1))
        run = Run({"policy": policy, "solver": Solver(0.9, 0.1)}, world(), generate, 0)
        list(rounds(run, Program((Stage(made, 3),))))
        moved.append(policy.logits.detach())
    assert float((moved[0] - numbers(8, 3, seed=1)).abs().max()) > 1e-2
    close(moved[0], moved[1])


def test_refinements_that_ignore_the_critique_have_an_advantage_of_mean_zero() -> None:
    batch = critiques(*[(0, 0, 2)] * 60, *[(0, 0, 1)] * 60)
    found = paid(RefinementReward(count=20), batch, able=0.5, lucky=0.5)[:, 1]
    assert abs(float(found[:60].mean() - found[60:].mean())) < 0.05


def test_worlds_that_can_not_refine_are_refused() -> None:
    ctx = context(method(), grids(), None)
    with pytest.raises(CompositionError, match="judged_wrong"):
        RefinementReward()(ctx, rewarded(ragged(), [1.0] * 4))
    with pytest.raises(CompositionError, match="at least one"):
        RefinementReward(count=0)
