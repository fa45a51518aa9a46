"""Plans are arithmetic on shapes, checked by hand; the pipeline by cases that need no simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tiny import Command

from policyopt.evaluation.sizing import (
    MACHINES,
    Shape,
    Stages,
    Work,
    generate_seconds,
    plan,
    rows_at_once,
    sampler_memory,
    simulated,
    train_seconds,
    trainer_memory,
)
from policyopt.recipe.base import RecipeError
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.sizing import plans, shape_of, work_of

SHAPE = Shape("small", 1000, layers=2, hidden=10, kv_heads=2, head_size=5, bytes=2)
WORK = Work(rows=8, prompt=3, answer=4, epochs=2, frozen=1, scores=1)
MACHINE = MACHINES["h100"]


def test_memory_by_hand() -> None:
    activations = 34 * 10 * 2 * 2 * 7  # bytes a token and layer, of two rows of 7 tokens
    optimiser = 2 * 1000 + 4 * 4 * 1000  # gradients; their sums, two moments and the weights themselves in float32
    assert trainer_memory(SHAPE, WORK, 1, 1, 2) == 2000 + 2000 + optimiser + activations
    assert trainer_memory(SHAPE, WORK, 4, 0, 2) == 2000 + (2000 + optimiser) / 4 + activations
    critic = replace(WORK, critics=1)
    assert trainer_memory(SHAPE, critic, 4, 1, 2) == 2 * (2000 + (2000 + optimiser) / 4) + 2000 + activations
    adapters = Shape(**{**vars(SHAPE), "trained": 100})
    assert trainer_memory(adapters, WORK, 1, 0, 2) == 2000 + optimiser / 10 + activations
    wide = Shape(**{**vars(SHAPE), "bytes": 4})
    assert trainer_memory(wide, WORK, 1, 0, 2) == 4000 + 3 * 4000 + 2 * activations
    assert SHAPE.cache == 2 * 2 * 2 * 5 * 2
    assert sampler_memory(SHAPE, 70, 2) == (2000 + 70 * 80) / 2


def test_seconds_by_hand() -> None:
    rate = MACHINE.flops * 0.4
    # Two epochs forward and backward, and the old and the reference policy forward.
    assert train_seconds(SHAPE, WORK, MACHINE, 2) == pytest.approx(1000 * 56 * (12 + 4) / (2 * rate))
    # A critic as well: its own epochs, and its values beforehand.
    with_critic = train_seconds(SHAPE, replace(WORK, critics=1), MACHINE, 2)
    assert with_critic == pytest.approx(1000 * 56 * (24 + 6) / (2 * rate))
    steps = 2 * 4 * (2000 + 4 * 80 * 5)  # two waves of four rows, four steps, a cache of 3 + 2 tokens on average
    expected = steps / (MACHINE.memory_rate * 0.6) + 2 * 1000 * 24 / rate
    assert generate_seconds(SHAPE, WORK, MACHINE, 1, 4) == pytest.approx(expected)


def test_rows_at_once_leave_room_for_the_weights() -> None:
    tight = type(MACHINE)("tight", memory=(2000 + 3 * 80 * 7) / 0.9, flops=1e9, memory_rate=1e9)
    assert rows_at_once(SHAPE, WORK, tight, 1) in (2, 3)
    assert rows_at_once(SHAPE, WORK, MACHINE, 1) == WORK.rows


def test_plans_fit_or_say_that_they_do_not() -> None:
    large, seven = plans(["70B", "7B"], (), "h200")
    assert not large.fits
    assert large.trainer_memory > MACHINES["h200"].memory
    assert seven.fits
    h100 = plan(seven.shape, Work(), MACHINE)
    assert (seven.trainers, seven.held) == (2, 1)
    assert h100.trainers > seven.trainers
    assert h100.samplers == max(1, -(-int(h100.generate / h100.train * 1e6) // 10**6))


def test_parameters_are_those_of_the_published_models() -> None:
    found = {one.shape.name: one.shape.parameters for one in plans(["1.5B", "7B", "32B", "70B"])}
    assert found == {"1.5B": 1_543_714_304, "7B": 7_615_616_512, "32B": 32_763_876_352, "70B": 70_553_706_496}
    assert (
        shape_of("x", "llama", {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}).head_size == 4
    )


def test_models_of_a_recipe_are_counted() -> None:
    """PPO: a critic is trained beside the policy, the reference and a reward model are frozen."""
    given = {"reference": "a", "judge": "b"}
    stage = {"method": "ppo", "steps": 1, "options": {"reward": {"part": "model_reward", "models": ["judge"]}}}
    policy = {"new": {"alphabet": "abc"}}
    recipe = {"name": "x", "policy": policy, "tasks": {"reasoning_gym": "leg_counting"}, "stages": [stage]}
    work = work_of(make_recipe({**recipe, "models": given}))
    assert (work.critics, work.frozen) == (1, 2)


@pytest.mark.parametrize(
    ("target", "changes", "machine", "said"),
    [("8B", (), "h100", "1.5B, 7B"), ("7B", ("seed=1",), "h100", "name of a model"), ("7B", (), "tpu", "a100")],
)
def test_wrong_questions(target: str, changes: Any, machine: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        plans([target], changes, machine)


# -- the pipeline ------------------------------------------------------------------------------------------------------
def test_in_step_the_times_add_up() -> None:
    assert simulated(Stages(6, 1, 4), 1, 0) == pytest.approx(11)
    assert simulated(Stages(6, 1, 4), 2, 0) == pytest.approx(8)


def test_ahead_the_slower_side_counts() -> None:
    assert simulated(Stages(6, 1, 4), 1, 1) == pytest.approx(7)
    assert simulated(Stages(2, 0, 4), 1, 1) == pytest.approx(4)
    assert simulated(Stages(6, 1, 4), 3, 1) == pytest.approx(4)
    assert simulated(Stages(6, 1, 4), 1, 3) == pytest.approx(7)


def test_the_command_prints_the_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    policyopt = Command(monkeypatch, capsys)
    printed = policyopt("check", "7B", "--plan", "--machine", "h200")
    assert printed.code == 0
    assert "7.62 G" in printed.out
    assert json.loads(policyopt("check", "1.5B", "--plan", "--json").out)[0]["trainers"] == 1
