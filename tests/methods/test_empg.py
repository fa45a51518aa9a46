"""EMPG: `reduces_to` of specification 229, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Chain, CompositionError
from policyopt.credit.entropies import EntropyModulated, StepEntropies
from policyopt.methods import load
from policyopt.types import Categorical
from support import close, context, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def turned(batch, length: int = 3):
    return batch.with_steps({"turn": (torch.arange(batch.steps) // length).expand(len(batch), -1)})


def modulated(batch, **options):
    return EntropyModulated(**options)(context(method(), grids()), batch).step["advantage"]


def known(seed: int = 0):
    batch = ragged(seed=seed)
    return turned(batch.with_steps({"entropy": numbers(4, 13, seed=seed + 9).abs()}))


def test_without_modulation_it_is_grpo_less_the_mean_over_turns() -> None:
    made = load("empg")
    plain = replace(made, credit=Chain((*made.credit.parts[:2], EntropyModulated(0.0, 1.0, 0.0))))
    batch = turned(ragged())
    found = first_step(plain, grids(full=True), batch, Grades(GRADES)).round.credited
    grpo = first_step(load("grpo"), grids(full=True), batch, Grades(GRADES)).advantage
    turns = [(b, t) for b in range(4) for t in sorted(set(batch.step["turn"][b][batch.own[b]].tolist()))]
    centre = sum(float(grpo[b]) for b, _ in turns) / len(turns)
    close(found.step["advantage"], torch.where(batch.own, grpo[:, None] - centre, 0.0))


@given(st.integers(0, 30), st.floats(0, 5))
def test_weights_have_mean_one_over_turns(seed: int, sharpness: float) -> None:
    """Advantages of 1 stay 1 on average, so centring leaves mean 0 over turns, for every k."""
    batch = known(seed).with_steps({"advantage": torch.ones(4, 13)})
    found = modulated(batch, sharpness=sharpness, bonus=0.0)
    turns = {(b, int(batch.step["turn"][b, t])): float(found[b, t]) for b, t in batch.own.nonzero().tolist()}
    assert abs(sum(turns.values())) < 1e-9
    assert max(turns.values()) > -1


def test_two_turns_by_hand() -> None:
    """h = (1, 0), k = log 2: g = (1/2, 1) over their mean 3/4; f = (1, 0) with k' = 1."""
    batch = turned(ragged((4,), tools=False), 2)
    batch = batch.with_steps({"entropy": torch.tensor([[0.5, 1.5, 0.2, 0.0]]), "advantage": torch.full((1, 4), 3.0)})
    found = modulated(batch, sharpness=math.log(2), foresight=1.0, bonus=0.5, epsilon=0.0)
    first, second = 3 * (2 / 3) + 0.5, 3 * (4 / 3)
    close(found, [[(first - second) / 2] * 2 + [(second - first) / 2] * 2])


def test_the_bonus_looks_at_the_next_turn_of_the_same_row() -> None:
    batch = known().with_steps({"advantage": torch.zeros(4, 13)})
    found = modulated(batch, bonus=1.0)
    centre = found[0, 0]  # a row of one turn: no bonus
    assert float(centre) < 0
    last = found[batch.own & (batch.step["turn"] == 4)]
    close(last, torch.full_like(last, float(centre)))
    assert float(found[3, 0]) > float(centre)


def test_expected_square_of_the_score_is_one_minus_the_collision_probability() -> None:
    """E |grad log pi|^2 = 1 - sum pi^2, the identity that the method rests on."""
    logits = numbers(5, seed=3).requires_grad_()
    p = logits.softmax(-1).detach()
    total = 0.0
    for a in range(5):
        (slope,) = torch.autograd.grad(logits.log_softmax(-1)[a], logits)
        total += float(p[a] * (slope**2).sum())
    close(total, 1 - (p**2).sum())


def test_entropies_are_of_the_policy_that_took_the_steps_and_scored_once() -> None:
    batch, models = ragged(), grids(full=True)
    done = first_step(load("empg"), models, turned(batch), Grades(GRADES)).round.credited
    logits = grids(full=True)["policy"].logits.detach()[:4, :13]
    close(done.step["entropy"], torch.where(batch.own, Categorical.of(logits).entropy(), 0.0))
    # Policy: once before the update, once in it.
    assert models["policy"].calls == 2


def test_unscored_rows_take_no_part_and_unknown_entropies_are_refused() -> None:
    batch = with_row(known(), scored=[True, True, False, True])
    found = modulated(batch)
    assert float(found[2].abs().max()) == 0.0
    part = batch[torch.tensor([0, 1, 3])]
    close(modulated(part), found[[0, 1, 3]])
    with pytest.raises(CompositionError, match="reports it"):
        StepEntropies()(context(method(), grids()), batch)
