"""Preference methods where they begin, at policy = reference: the loss is a known constant and its gradient the
analytic one, to 1e-12 in float64; and the reference stays what it is, bit for bit, over a hundred updates."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from enumeration import first_step
from one_core import kind, recorded
from policyopt.compose import Nothing, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.sequences import PairedWorld, SequenceWorld
from support import grid, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")

LN2 = math.log(2)
EXO = 0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 0.001)

# Method, the loss per pair, and its derivatives by the sum (or mean) of the log-probabilities of the preferred and of
# the other row of a pair; where rows stand for themselves, half of what a pair's mean would give.
STEPS: list[tuple[str, float, float, float, bool]] = [
    ("dpo", LN2, -0.05, 0.05, False),
    ("dpo:ipo", 25.0, -10.0, 10.0, False),
    ("dpo:ipo_mean", 25.0, -10.0, 10.0, True),
    ("dpo:slic", 1.0, -0.1, 0.1, False),
    ("dpo:cdpo", LN2, -0.04, 0.04, False),
    ("dpo:exo", EXO, -0.025 * math.log(999), 0.025 * math.log(999), False),
    ("dpo:nca", 2 * LN2, -0.025, 0.025, False),
    ("dpo:apo_zero", 1.0, -0.025, 0.025, False),
    ("dpo:apo_down", 1.0, 0.0, 0.025, False),
    ("dpo:discopop", (1 + LN2) / 2, 0.05 * (4.25 - 5 * LN2), -0.05 * (4.25 - 5 * LN2), False),
    ("dpo:sppo_hard", 0.5e6, -1e3, 1e3, False),
    ("dpo:fdpo", LN2, -0.025, 0.025, False),
    ("dpo:fdpo_forward_kl", LN2, -0.05, 0.05, False),
    ("dpo:lndpo", LN2, -2.5, 2.5, True),
    ("dpo:aot", LN2, -0.05, 0.05, False),
    ("dpo:aot_unpaired", LN2, -0.05, 0.05, False),
    ("dpo:bco", LN2, -0.025, 0.025, False),
    ("dpo:kto", 0.5, -0.0125, 0.0125, False),
    ("rdpo", LN2, -0.0625, 0.0625, False),  # -beta / 2 over 1 - 2 e
    ("mcts_dpo", LN2, -0.03, 0.03, False),  # with a doubt of 1/5
    ("implicit_prm:implicit_prm_dpo", LN2, -0.025, 0.025, False),
    ("lipo_lambda:lipo_hinge", 1.0, -0.1, 0.1, False),
]


def of(key: str) -> Any:
    return replace(load(key), reward=Nothing(), feedback=Nothing())


@pytest.mark.parametrize(("key", "value", "chosen", "other", "mean"), STEPS)
def test_the_loss_is_the_constant_and_the_gradient_the_analytic_one(
    key: str, value: float, chosen: float, other: float, mean: bool
) -> None:
    """Rows of 1, 2, 7 and 13 steps, some of them not trained on, in two pairs."""
    batch = ragged()
    batch = batch.with_rows({"doubt": torch.full((4,), 0.2), "label": torch.tensor([1.0, 1.0, 0.0, 0.0])})
    done = first_step(of(key), {"policy": grid(0)}, batch)
    assert abs(done.round.metrics["loss/preference"] - value) <= 1e-12 * max(1.0, value)
    slope = torch.tensor([chosen, chosen, other, other]) / 2  # the mean over two pairs
    if mean:
        slope = slope / batch.trained.sum(1)
    expected = torch.zeros_like(done.gradient)
    expected[:4, :13] = torch.where(batch.trained, slope[:, None], 0.0)
    assert float((done.gradient - expected).abs().max()) <= 1e-12 * max(1.0, abs(chosen))


def test_the_on_policy_stage_begins_at_the_constants_of_its_own_reference() -> None:
    batch = ragged().with_steps({"severity": numbers(4, 13, seed=3).abs()})
    done = first_step(of("opa_dpo"), {"policy": grid(0)}, batch)
    for term in ("preference", "anchor"):
        assert abs(done.round.metrics[f"loss/{term}"] - 2 * LN2) <= 1e-12
    # -beta / 2 by the severity from the pair, and on chosen rows as much again by the plain sum from the anchor.
    pair = 0.05 * torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None] * batch.step["severity"]
    anchor = torch.tensor([-0.05, -0.05, 0.0, 0.0])[:, None]
    expected = torch.zeros_like(done.gradient)
    expected[:4, :13] = torch.where(batch.trained, pair + anchor, 0.0)
    assert float((done.gradient - expected).abs().max()) <= 1e-12


# -- the reference ---------------------------------------------------------------------------------------------------
def tables() -> tuple[Any, Any]:
    """Strings of 3 of 4 symbols, 6 pairs."""
    strings = torch.randint(4, (6, 2, 3), generator=torch.Generator().manual_seed(1))
    inner = SequenceWorld(
        2, 4, 3, lambda s, t: s.double().sum(1), pairs=strings, pair_tasks=torch.tensor([0, 1, 0, 1, 0, 1])
    )
    return Table(numbers(6, 4, seed=5)), PairedWorld(inner)


def text() -> tuple[Any, Any]:
    model = kind("language")
    return copy.deepcopy(model.models["policy"]), recorded(model)


@pytest.mark.parametrize("begin", [tables, text])
def test_reference_log_probabilities_are_bitwise_unchanged_after_a_hundred_updates(begin: Any) -> None:
    policy, world = begin()
    first = copy.deepcopy(policy)
    made = override(load("dpo"), {"selection.count": 2, "update.learning_rate": 0.01, "update.schedule": "constant"})
    run = Run({"policy": policy}, world, generate, 0)
    frozen: list[dict[str, Tensor]] = []
    for done in rounds(run, Program((Stage(made, 100),))):
        reference: Any = run.models["reference"]
        if not frozen:
            frozen.append({name: value.clone() for name, value in first.state_dict().items()})
        with torch.no_grad():
            said, held = reference.score(done.kept).logp, first.score(done.kept).logp
        assert torch.equal(said, held)
        assert torch.equal(done.kept.scores["reference"].logp[done.kept.own], held[done.kept.own])
    assert run.updates == 100
    assert not any(parameter.requires_grad for parameter in run.models["reference"].parameters())
    for name, value in run.models["reference"].state_dict().items():
        assert torch.equal(value, frozen[0][name])
    with torch.no_grad():
        moved = run.models["policy"].score(done.kept).logp - first.score(done.kept).logp
    assert float(moved[done.kept.own].abs().max()) > 0.1
