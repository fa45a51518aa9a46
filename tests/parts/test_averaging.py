"""Averages: weights by hand and by loops, the scale over ranks, nothing for an empty mask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loops
from cases import AVERAGES
from policyopt.ops.masked import alone
from policyopt.update.averaging import RowMean, SequenceMean, SequenceSum, TokenMean
from support import close, on_ranks, ragged

MASK = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])


def test_weights_by_hand() -> None:
    batch = ragged((3, 3, 3))
    third = 1 / 6
    close(TokenMean()(MASK, batch, alone), [[0.25, 0, 0], [0.25] * 3, [0] * 3])
    close(SequenceMean()(MASK, batch, alone), [[0.5, 0, 0], [third] * 3, [0] * 3])
    close(SequenceSum(4.0)(MASK, batch, alone), [[0.125, 0, 0], [0.125] * 3, [0] * 3])
    close(RowMean()(MASK[:, 0], batch, alone), [0.5, 0.5, 0.0])


@pytest.mark.parametrize("average", [TokenMean(), SequenceMean(), SequenceSum(3.0)])
def test_weights_of_a_mean_are_exact_in_float64(average) -> None:
    """Whatever the default dtype: 1 / 7 rounded to float32 is off by 1e-9."""
    assert torch.get_default_dtype() == torch.float32
    weights = average(torch.ones(1, 7, dtype=torch.bool), ragged((7,)), alone)
    total = 7 / 3 if isinstance(average, SequenceSum) else 1.0
    close(weights.sum(), total, atol=1e-15)
    close(weights[0, 0], total / 7, atol=1e-16)


def check_empty(average, mask: torch.Tensor) -> None:
    weights = average(mask, ragged((3, 3)), alone)
    assert torch.equal(weights, torch.zeros(mask.shape, dtype=weights.dtype))


def test_an_empty_mask_has_no_weight() -> None:
    for average, _ in AVERAGES.values():
        check_empty(average, torch.zeros(2, 3, dtype=torch.bool))
    check_empty(RowMean(), torch.zeros(2, dtype=torch.bool))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=6), st.data())
def test_any_mask_equals_the_loops_on_one_rank_and_on_two(rows: list[list[bool]], data: st.DataObject) -> None:
    mask = torch.tensor(rows)
    if not mask.any():
        return
    batch = ragged([4] * len(rows))
    cut = data.draw(st.integers(1, len(rows) - 1))
    pieces = (slice(0, cut), slice(cut, len(rows)))
    for average, reference in AVERAGES.values():
        expected = reference(rows)
        close(average(mask, batch, alone), expected)

        def work(rank: int, total, average=average):
            return average(mask[pieces[rank]], batch[pieces[rank]], total)

        close(torch.cat(on_ranks(2, work)), expected)
    close(RowMean()(mask.any(1), batch, alone), loops.row_mean(mask.any(1).tolist()))


@given(st.permutations(range(4)), st.integers(0, 5))
def test_rows_and_padding_are_free(order: list[int], padding: int) -> None:
    batch = ragged()
    mask = torch.cat([batch.trained, torch.zeros(4, padding, dtype=torch.bool)], 1)
    for average, _ in AVERAGES.values():
        plain = average(batch.trained, batch, alone)
        moved = average(mask[order], batch, alone)
        close(moved[:, :13], plain[order])
        close(moved[:, 13:], torch.zeros(4, padding))
