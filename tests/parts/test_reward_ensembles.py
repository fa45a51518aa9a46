"""Several reward models as one reward, and reward models that say nothing of a row."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import CompositionError
from policyopt.options import override
from policyopt.reward.reward_models import ModelReward, combined
from references_reward_models import said, training
from support import close, context, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")
ONE, OTHER = (0.7, -0.4, -1.1, 0.3), (0.1, 0.4, -1.1, -0.7)


def test_combinations_are_those_of_hand():
    worths = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
    spread = math.sqrt(8 / 3)
    close(combined(worths, "mean"), [3.0, 2.0])
    close(combined(worths, "minimum"), [1.0, 2.0])
    close(combined(worths, "lower", 0.5), [3 - 0.5 * spread, 2.0])
    close(combined(worths, "variance", 0.5), [3 - 0.5 * 8 / 3, 2.0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0, 3), st.floats(-4, 4))
def test_pessimism_never_pays_more_than_the_mean_and_a_constant_passes_through(worths, pessimism, shift):
    row = torch.tensor(worths)[:, None]
    for how in ("minimum", "lower", "variance"):
        value = combined(row, how, pessimism)
        assert float(value) <= float(row.mean()) + 1e-9
        close(combined(row + shift, how, pessimism), value + shift)
    close(combined(row, "lower", 0.0), row.mean(0))
    # Agreement is not punished.
    close(combined(torch.full_like(row, 1.5), "lower", pessimism), [1.5])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(a + b) / 2 for a, b in zip(ONE, OTHER, strict=True)]),
        ({"combine": "minimum"}, [min(a, b) for a, b in zip(ONE, OTHER, strict=True)]),
        ({"combine": "lower", "pessimism": 2.0}, [min(a, b) - abs(a - b) / 2 for a, b in zip(ONE, OTHER, strict=True)]),
    ],
)
def test_rows_are_paid_the_combination_on_their_last_own_step(options, expected):
    batch = ragged()
    ctx = context(training(batch), {**grids(), "one": said(*ONE), "other": said(*OTHER)})
    rows = batch.with_steps({"reward": torch.zeros_like(batch.step["reward"])})
    paid = ModelReward(("one", "other"), weight=3.0, **options)(ctx, rows)
    close(paid.step["reward"].sum(1), [3 * value for value in expected])
    gaps = [abs(a - b) / 2 for a, b in zip(ONE, OTHER, strict=True)]
    assert ctx.meter.result()["reward_disagreement"] == pytest.approx(sum(gaps) / 4)


def test_a_row_that_one_model_says_nothing_of_is_unscored():
    batch = ragged()
    ctx = context(training(batch), {**grids(), "one": said(*ONE), "other": said(0.1, math.nan, 0.2, math.inf)})
    paid = ModelReward(("one", "other"))(ctx, batch)
    assert paid.row["scored"].tolist() == [True, False, True, False]
    close(paid.step["reward"][1], batch.step["reward"][1])
    assert bool(paid.step["reward"].isfinite().all())
    assert ctx.meter.result()["unanswered"] == 0.5


@pytest.mark.parametrize("options", [{"combine": "minimum"}, {"pessimism": -1.0}, {"models": ()}])
def test_wrong_ensembles_are_refused(options):
    with pytest.raises(CompositionError):
        ModelReward(**{"models": ("one",), **options})


def test_another_reward_asks_for_its_models_by_name():
    from policyopt.methods import load

    changed = override(load("grpo"), {"reward": {"part": "model_reward", "models": ["one", "other"]}})
    assert {"one", "other"} <= set(changed.models)
    inside = override(load("ppo_max"), {"reward.verified": "model_reward"})
    assert "reward" in inside.models
    assert [type(part).__name__ for part in inside.reward.parts] == ["ModelReward", "RunningScore", "ReferencePenalty"]
