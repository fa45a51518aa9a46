"""The general preference model as a stage, and games that are played by what it learned."""

import math
from dataclasses import replace

import pytest
import torch

from contests import BIASED
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.games import compared_in_cycles, equilibrium, exploitability
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table, TablePreference
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.sequences import PairedWorld, SequenceWorld

pytestmark = pytest.mark.usefixtures("float64")
SMALL = {"selection.count": 64, "update.learning_rate": 0.05, "update.schedule": "constant"}


def pairs(count: int = 1600) -> PairedWorld:
    """Pairs of a biased rock-paper-scissors, all as often, the winner drawn."""
    rng = torch.Generator().manual_seed(5)
    first = torch.randint(3, (count,), generator=rng)
    second = (first + torch.randint(1, 3, (count,), generator=rng)) % 3
    ahead = torch.rand(count, generator=rng, dtype=torch.float64) < BIASED[first, second]
    order = torch.stack([torch.where(ahead, first, second), torch.where(ahead, second, first)], 1)
    task = torch.zeros(count, dtype=torch.int64)
    return PairedWorld(SequenceWorld(1, 3, 1, lambda s, t: s[:, 0].double(), pairs=order[:, :, None], pair_tasks=task))


def trained(*stages: Stage, models=None) -> Run:
    start = Table(torch.tensor([[0.5, 0.0, -0.5]]))
    world = pairs()
    run = Run({"policy": start, **(models or {})}, world, generate, 1, {"world": world, "answers": world.inner})
    for _ in rounds(run, Program(stages)):
        pass
    return run


def learned(run: Run) -> torch.Tensor:
    """(3, 3) chances."""
    world = pairs(1).inner
    rows = world.complete(world.tasks(torch.zeros(3, dtype=torch.int64)), torch.arange(3)[:, None])
    first, second = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    with torch.no_grad():
        return run.models["preference"].compare(rows, first, second).sigmoid().view(3, 3)


def test_a_stage_learns_the_chances_and_leaves_the_policy_alone() -> None:
    run = trained(Stage(override(load("preference_model"), SMALL), 100))
    assert torch.equal(run.models["policy"].logits.detach(), torch.tensor([[0.5, 0.0, -0.5]]))
    assert float((learned(run) - BIASED).abs().max()) < 0.08


def test_the_loss_at_equal_representations_is_log_two_and_has_no_slope_at_zero() -> None:
    model = TablePreference(torch.zeros(1, 3, 6))
    run = Run({"policy": Table(torch.zeros(1, 3)), "preference": model}, pairs(), generate)
    (done,) = rounds(run, Program((Stage(override(load("preference_model"), SMALL), 1),)))
    assert done.metrics["loss/preference"] == pytest.approx(math.log(2))
    assert torch.equal(model.values.detach(), torch.zeros(1, 3, 6))


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("spo", {"selection.count": 8, "sampling.size": 16}),
        ("dno", {"selection.count": 4, "sampling.size": 32, "feedback.judge": "preference", "objective.eta": 2.0}),
        ("inpo", {"selection.count": 4, "sampling.size": 32, "objective.eta": 1.0, "objective.tau": 0.05}),
        ("nash_md", {"selection.count": 32, "constraint.kl.weight": 0.05}),
    ],
)
def test_games_ask_the_model_that_an_earlier_stage_trained(key: str, options: dict) -> None:
    """The world itself compares nothing here."""
    changed = override(load(key), {"reward.judge": "preference", **options})
    assert "preference" in changed.models
    run = trained(
        Stage(override(load("preference_model"), SMALL), 2),
        Stage(replace(changed, world="answers"), 2),
    )
    assert not torch.equal(run.models["policy"].logits.detach(), torch.tensor([[0.5, 0.0, -0.5]]))


def test_the_equilibrium_of_what_was_learned_is_nearly_that_of_the_game() -> None:
    found = learned(trained(Stage(override(load("preference_model"), SMALL), 100)))
    assert float(exploitability(BIASED, equilibrium(found))) < 0.05


def test_no_scores_tell_a_circle_right() -> None:
    settings = {**SMALL, "selection.count": 64}
    scored = compared_in_cycles(override(load("reward_model"), settings), 1_000_007, 40)
    compared = compared_in_cycles(override(load("preference_model"), settings), 1_000_007, 40)
    assert scored.value <= 0.7 < 0.9 <= compared.value
    assert scored.rows == compared.rows
