"""AWR: weights by hand, its limits, and returns of recorded episodes."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.methods import load
from policyopt.options import override
from policyopt.reward.parts import FromWorld
from support import Grid, close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")


def made(temperature: float = 1.0, cap: float = 20.0, *, whitened: bool = False) -> Any:
    awr = override(load("awr"), {"objective.temperature": temperature, "objective.cap": cap})
    return replace(awr, reward=FromWorld(), credit=GeneralisedAdvantage(0.9, 0.6, whitened=whitened))


def rows() -> Any:
    batch = ragged(tools=False)
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


def advantages(batch: Any, models: Any) -> list[list[float]]:
    values = models["critic"].values.detach()
    return [
        loops.gae(batch.step["reward"][b, :n].tolist(), values[b, :n].tolist(), 0.0, 0.9, 0.6)
        for b, n in enumerate(batch.lengths.tolist())
    ]


def test_gradient_is_the_capped_exponential_of_the_advantage() -> None:
    batch, models = rows(), grids()
    expected = [[min(math.exp(a / 0.7), 3.0) for a in row] for row in advantages(batch, models)]
    assert any(w == 3.0 for row in expected for w in row)
    found = first_step(made(0.7, 3.0), models, batch).gradient
    for b, row in enumerate(expected):
        close(found[b, : len(row)], -torch.tensor(row) / int(batch.trained.sum()))


def test_a_high_temperature_is_behaviour_cloning() -> None:
    batch = rows()
    one = first_step(made(1e12), grids(), batch).gradient
    other = first_step(replace(load("bc"), reward=FromWorld()), grids(), batch).gradient
    close(one, other, atol=1e-10)


def test_the_value_regresses_on_returns_by_lambda() -> None:
    batch, models = rows(), grids()
    expected = advantages(batch, models)
    found = first_step(made(), models, batch, model="critic", table="values").gradient
    for b, row in enumerate(expected):
        close(found[b, : len(row)], -torch.tensor(row) / int(batch.trained.sum()))


def test_weights_do_not_depend_on_the_scale_of_rewards() -> None:
    """Whitened advantages: ten times the rewards and values, the same policy gradient."""
    found = []
    for scale in (1.0, 10.0):
        batch, models = rows(), grids()
        models["critic"] = Grid(values=scale * models["critic"].values.detach())
        batch = batch.with_steps({"reward": scale * batch.step["reward"]})
        found.append(first_step(made(whitened=True), models, batch).gradient)
    close(found[0], found[1], atol=1e-7)


def test_large_advantages_do_not_overflow() -> None:
    batch, models = rows(), grids()
    batch = batch.with_steps({"reward": 1e6 * batch.step["reward"]})
    assert bool(first_step(made(), models, batch).gradient.isfinite().all())


def test_published_settings() -> None:
    awr = load("awr")
    assert (awr.objective[1].loss.temperature, awr.objective[1].loss.cap) == (1.0, 20.0)
    assert (awr.credit.lam, awr.credit.gamma, awr.credit.whitened) == (0.95, 0.99, True)
