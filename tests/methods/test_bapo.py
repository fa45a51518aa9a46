"""BAPO: `reduces_to` of specification 43, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cases
from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Term
from policyopt.methods import load
from policyopt.objective.balanced_clip import HIGH, LOW, BalancedClip
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.masked import alone
from policyopt.seen import SeenBatch
from policyopt.update.averaging import TokenMean
from support import close, context, full_step, grid, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def stepped(loss, batch=None, micro=None):
    ctx = context(method(Term("one", loss, TokenMean())), grids())
    return full_step(ctx, cases.rich() if batch is None else batch, micro)


@pytest.mark.parametrize(
    ("loss", "low", "high"),
    [
        (BalancedClip(0.0), 0.4, 0.2),  # nothing is searched
        (BalancedClip(1.0, low=0.9, high=3.0), 0.1, 2.0),  # it starts at the ends
        (BalancedClip(1.0), 0.1, 2.0),  # it goes to the ends
        (BalancedClip(1.0, first="low"), 0.1, 2.0),
    ],
)
def test_with_nothing_to_search_it_is_the_clipped_surrogate(loss: BalancedClip, low: float, high: float) -> None:
    found, expected = stepped(loss), stepped(ClippedSurrogate(low, high))
    close(found[0], expected[0])
    close(found[1], expected[1])


def test_on_fresh_rows_any_bounds_give_the_policy_gradient() -> None:
    """All ratios 1: the gradient is that of no clipping, whatever was searched."""
    made, batch = load("bapo"), with_row(ragged((1, 2, 7, 13)), group=(1, 1, 2, 2))
    done = first_step(made, {"policy": grid(0)}, batch, Grades([1.0, 0.0, 0.0, 1.0]))
    expected = torch.where(batch.trained, -done.advantage[:, None] / batch.trained.sum(), 0.0)
    assert float(expected.abs().max()) > 0.01
    close(done.gradient[:4, :13], expected)


@given(st.integers(0, 40))
def test_the_share_falls_with_the_lower_bound_and_rises_with_the_upper(seed: int) -> None:
    """Of clamped values, as published: so the lower bound alone never brings the balance."""
    ratio, advantage = (0.4 * numbers(30, seed=seed)).exp(), numbers(30, seed=seed + 1)

    def share(low: float, high: float) -> float:
        good, bad = BalancedClip().balance(ratio, advantage, low, high)
        return float(good / (good + bad))

    lows = [share(low, 1.2) for low in (0.6, 0.7, 0.8, 0.9)]
    highs = [share(0.6, high) for high in (1.2, 1.6, 2.0, 3.0)]
    assert lows == sorted(lows, reverse=True)
    assert highs == sorted(highs)
    start = share(0.6, 1.2)
    low, _ = BalancedClip(start + 1e-6, first="low").search(ratio, advantage, alone)
    assert low == pytest.approx(0.9)


def test_the_upper_bound_is_searched_first() -> None:
    """Algorithm 1. Ratios 2 (A = 1) and 0.65, 0.95 (A = -1). Values at (0.6, 1.2): P = 1.2, N = 1.6. P = 1.6 at an
    upper bound of 1.6: the share is one half, the lower bound stays. The release raises the lower one to 0.9 before
    (N = 1.85), so that P must be 2."""
    ratio, advantage = torch.tensor([2.0, 0.65, 0.95]), torch.tensor([1.0, -1.0, -1.0])
    part = BalancedClip(0.5, low_by=0.1, high_by=0.4)
    assert part.search(ratio, advantage, alone) == (0.6, pytest.approx(1.6))
    released = replace(part, first="low")
    assert released.search(ratio, advantage, alone) == (pytest.approx(0.9), pytest.approx(2.0))
    # The quotient 0.5 is a share of a third: 1.2 / 1.6 is above it at once.
    assert replace(released, quotient=True).search(ratio, advantage, alone) == (0.6, 1.2)
    # No negative step is in balance.
    assert part.search(ratio[:1], advantage[:1], alone) == (0.6, 1.2)
    # 0.9 is out of reach (P is 2 at most): both bounds go to their ends.
    assert replace(part, share=0.9).search(ratio, advantage, alone) == (pytest.approx(0.9), pytest.approx(3.0))


def test_counting_gradients_by_hand() -> None:
    """The same rows: at (0.6, 1.2) N = 1.6 and P = 0 (2 is above 1.2), from an upper bound of 2 on P = 2 and the share
    is 2 / 3.6. Above 0.65 N = 0.95: 2 / 2.95."""
    ratio, advantage = torch.tensor([2.0, 0.65, 0.95]), torch.tensor([1.0, -1.0, -1.0])
    part = BalancedClip(0.6, low_by=0.1, high_by=0.4, counted="gradient")
    assert part.search(ratio, advantage, alone) == (pytest.approx(0.7), pytest.approx(3.0))
    assert replace(part, share=0.5).search(ratio, advantage, alone) == (0.6, pytest.approx(2.0))
    found = replace(part, first="low").search(ratio, advantage, alone)
    assert found == (pytest.approx(0.9), pytest.approx(2.0))


def test_bounds_are_of_the_whole_step_not_of_a_micro_batch() -> None:
    loss = BalancedClip(0.7, counted="gradient")
    whole, parts = stepped(loss), stepped(loss, micro=1)
    close(parts[0], whole[0])
    close(parts[1], whole[1])
    batch, ctx = cases.rich(), context(method(Term("one", loss, TokenMean())), grids())
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    assert len(planned.row[LOW].unique()) == len(planned.row[HIGH].unique()) == 1
    assert 0.2 < float(planned.row[HIGH][0]) < 2.0


def test_options_out_of_range_are_refused() -> None:
    for options in ({"low": 0.0}, {"low_end": 0.5}, {"high": 1.0}, {"high_end": 1.1}, {"share": -0.1}, {"first": "up"}):
        with pytest.raises(CompositionError):
            BalancedClip(**options)
    with pytest.raises(CompositionError, match="dual_clip"):
        BalancedClip(dual_clip=0.5)
