"""SEED-GRPO: `reduces_to` of specification 95."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.compose import Chain, CompositionError
from policyopt.credit.groups import GroupCentred, GroupStandardised
from policyopt.credit.uncertainty import SemanticEntropyScaled
from policyopt.methods import load
from policyopt.options import override
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]  # rows 0 and 2 are one group, 1 and 3 the other


def stepped(made, keys, batch=None):
    old = grids()["old"].logp.detach()[:4, :13]
    return first_step(made, grids(), batch or ragged(), Said(grade=GRADES, answer_keys=keys), old=old)


def strong(alpha=2.0, **more):
    return override(load("seed_grpo"), {"credit.alpha": alpha, **more})


def test_without_strength_or_with_one_meaning_it_is_dr_grpo() -> None:
    base = stepped(load("dr_grpo"), [0, 0, 0, 0])
    assert float(base.gradient.abs().max()) > 1e-6
    close(stepped(strong(0.0), [1, 2, 3, 4]).gradient, base.gradient)
    close(stepped(strong(), [5, 5, 5, 5]).gradient, base.gradient)


def test_advantages_by_hand() -> None:
    """Group of rows 0 and 2 agrees; rows 1 and 3 differ and share likelihoods p."""
    batch = ragged()
    done = stepped(strong(), [5, 1, 5, 2], batch)
    mean = [float(batch.step["behaviour"][b][batch.own[b]].mean()) for b in (1, 3)]
    p = 1 / (1 + math.exp(mean[1] - mean[0]))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    f = 1 / (1 + 2 * entropy / math.log(2))
    assert 0.3 < f < 0.4
    close(done.advantage, [0.75, -f, -0.75, f])


def test_with_equal_likelihoods_it_is_the_entropy_of_counts() -> None:
    batch = ragged((3, 3, 3, 3))
    batch = batch.with_rows({"group": torch.zeros(4, dtype=torch.int64)})
    batch = batch.with_steps({"behaviour": torch.full((4, 3), -0.7)})
    done = first_step(strong(1.0), grids(), batch, Said(grade=GRADES, answer_keys=[1, 1, 2, 3]))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    factor = 1 / (1 + entropy / math.log(4))
    close(done.advantage, [factor * (g - 1.375) for g in GRADES])
    close(done.round.metrics["semantic_entropy"], entropy)


def test_unreadable_answers_are_meanings_of_their_own() -> None:
    close(stepped(strong(), [-1, -1, -1, -1]).advantage, stepped(strong(), [1, 2, 3, 4]).advantage)


def test_other_forms_and_another_base() -> None:
    base = stepped(load("dr_grpo"), [0] * 4).advantage
    for form, least in (("linear", 0.5), ("exponential", math.exp(-0.5))):
        factor = stepped(strong(0.5, **{"credit.form": form, "credit.shares": "count"}), [1, 2, 3, 4]).advantage / base
        close(factor, [least] * 4)
    on_grpo = replace(load("grpo"), credit=Chain((GroupStandardised(), SemanticEntropyScaled(2.0, shares="count"))))
    plain = stepped(load("grpo"), [0] * 4).advantage
    close(stepped(on_grpo, [1, 2, 3, 4]).advantage, plain / 3)


def test_a_world_that_knows_no_answers_is_refused() -> None:
    with pytest.raises(CompositionError, match="answer_keys"):
        first_step(strong(), grids(), ragged(), Said(grade=GRADES))
    assert isinstance(load("seed_grpo").credit.parts[0], GroupCentred)
    assert load("seed_grpo").credit.parts[1].alpha == 0.0417
