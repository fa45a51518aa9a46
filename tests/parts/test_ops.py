"""Pure tensor functions: hand-worked numbers, loops, and properties over generated inputs."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import loops
from policyopt.ops.groups import group_count, group_mean, group_range, group_std, informative, others_mean
from policyopt.ops.masked import masked_mean, masked_sum, placed, select, whiten
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.ops.sequences import (
    fold_rewards,
    generalised_advantage,
    last_own,
    on_last,
    pack_own,
    spread,
    to_go,
    total_reward,
)
from policyopt.types import StepKind
from support import NAN, close, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

rewards = st.lists(st.floats(-100, 100), min_size=1, max_size=9)


# -- masked -----------------------------------------------------------------------------------------------------
def test_reductions_under_a_mask_by_hand() -> None:
    x = torch.tensor([[1.0, NAN, 4.0], [2.0, 3.0, 5.0], [NAN, math.inf, 1.0]])
    mask = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    close(select(mask, x), [[1.0, 0.0, 4.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    close(masked_sum(x, mask), [5.0, 3.0, 0.0])
    close(masked_mean(x, mask), [2.5, 3.0, 0.0])
    # Kept 1, 4, 3: mean 8/3, variance with n - 1 is (25 + 16 + 1) / 9 / 2.
    deviation = math.sqrt(42 / 9 / 2) + 1e-8
    close(whiten(x, mask)[0, 0], (1 - 8 / 3) / deviation)
    close(whiten(x[:1, :1], mask[:1, :1]), [[0.0]], what="one entry is only centred")


def test_selected_values_carry_no_gradient_through_the_mask() -> None:
    x = torch.tensor([[1.0, NAN, math.inf]], requires_grad=True)
    mask = torch.tensor([[True, False, False]])
    masked_mean(x, mask).sum().backward()
    close(x.grad, [[1.0, 0.0, 0.0]])


def test_placed_puts_values_where_the_mask_holds() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    values = torch.tensor([3.0, 4.0], requires_grad=True)
    found = placed(mask, values)
    close(found, [[3.0, 0.0], [0.0, 4.0]])
    (found * torch.tensor([[1.0, 9.0], [9.0, 2.0]])).sum().backward()
    close(values.grad, [1.0, 2.0])
    close(placed(torch.zeros(2, 2, dtype=torch.bool), values[:0]), torch.zeros(2, 2))


# -- groups -----------------------------------------------------------------------------------------------------
def test_group_statistics_by_hand() -> None:
    x = torch.tensor([1.0, 10.0, 3.0, NAN, 5.0, 7.0])
    ids, valid = torch.tensor([4, 9, 4, 4, 4, 2]), torch.tensor([True, True, True, False, True, True])
    assert group_count(ids, valid).tolist() == [3, 1, 3, 3, 3, 1]
    close(group_mean(x, ids, valid), [3.0, 10.0, 3.0, 3.0, 3.0, 7.0])
    close(group_std(x, ids, valid), [2.0, 0.0, 2.0, 2.0, 2.0, 0.0])
    close(group_std(x, ids, valid, ddof=0)[0], math.sqrt(8 / 3))
    close(group_range(x, ids, valid), [4.0, 0.0, 4.0, 4.0, 4.0, 0.0])
    close(others_mean(x, ids, valid)[[0, 1, 2, 3, 4]], [4.0, 0.0, 3.0, 3.0, 2.0])
    assert informative(x, ids, valid).tolist() == [True, False, True, True, True, False]
    assert informative(x, ids, valid, 4.0).tolist() == [False] * 6
    nobody = torch.zeros(6, dtype=torch.bool)
    close(group_mean(x, ids, nobody), [0.0] * 6)
    close(group_range(x, ids, nobody), [0.0] * 6)


@given(rewards, st.data())
def test_group_statistics_equal_the_loops_in_any_order(values: list[float], data: st.DataObject) -> None:
    size = len(values)
    ids = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    valid = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    order = data.draw(st.permutations(range(size)))
    for perm in (list(range(size)), order):
        x, i, v = ([column[p] for p in perm] for column in (values, ids, valid))
        given_ = torch.tensor(x), torch.tensor(i), torch.tensor(v)
        for b in range(size):
            inside = [x[j] for j in loops.members(i, v, b)]
            others = [x[j] for j in loops.members(i, v, b) if j != b]
            close(group_mean(*given_)[b], sum(inside) / max(1, len(inside)), 1e-9)
            close(others_mean(*given_)[b], sum(others) / max(1, len(others)), 1e-9)
            close(group_range(*given_)[b], max(inside) - min(inside) if inside else 0.0)
            assert int(group_count(*given_[1:])[b]) == len(inside)


# -- sequences --------------------------------------------------------------------------------------------------
def test_values_on_rows_and_steps_by_hand() -> None:
    batch = ragged((1, 7))  # row 1: own own own tool tool own own
    value = torch.tensor([2.0, 3.0])
    own = torch.tensor([[1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1, 1]])
    last = torch.tensor([[1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])
    assert torch.equal(batch.own.long(), own)
    assert torch.equal(last_own(batch).long(), last)
    close(on_last(batch, value), last * value[:, None])
    close(spread(batch, value), own * value[:, None])
    kind = batch.step["kind"].clone()
    kind[1, 5:] = int(StepKind.TOOL)
    ends_with_tool = batch.with_steps({"kind": kind})
    assert last_own(ends_with_tool)[1].tolist() == [False, False, True, False, False, False, False]
    kind[1] = int(StepKind.TOOL)
    assert not last_own(batch.with_steps({"kind": kind}))[1].any()


def test_rewards_fold_into_the_own_step_before() -> None:
    batch = ragged((1, 7))
    rewards_ = torch.tensor([[1.0] + [NAN] * 6, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]])
    close(fold_rewards(batch, rewards_), [[1.0] + [0.0] * 6, [1.0, 2.0, 28.0, 0.0, 0.0, 32.0, 64.0]])
    kind = batch.step["kind"].clone()
    kind[1, 0] = int(StepKind.TOOL)
    found = fold_rewards(batch.with_steps({"kind": kind}), rewards_)
    close(found[1], [0.0, 3.0, 28.0, 0.0, 0.0, 32.0, 64.0], what="what comes before the first goes to the first")
    close(total_reward(batch.with_steps({"reward": rewards_})), [1.0, 127.0])


def test_packing_is_undone_by_its_index() -> None:
    batch, column = ragged(), numbers(4, 13, seed=1)
    (packed,), back = pack_own(batch, column)
    for b in range(4):
        close(packed[b, : int(batch.lengths[b])], column[b][batch.own[b]])
    close(packed.gather(1, back), column)


@given(
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 9),
    st.integers(0, 3),
)
def test_gae_equals_the_definition_whatever_the_padding(length, gamma, lam, seed, padding) -> None:
    width = length + padding
    r, v, after = numbers(1, width, seed=seed), numbers(1, width, seed=seed + 50), numbers(1, seed=seed + 90)
    mask = (torch.arange(width) < length)[None]
    r, v = torch.where(mask, r, NAN), torch.where(mask, v, NAN)
    found = generalised_advantage(r, v, after, mask, gamma, lam)
    expected = loops.gae(r[0, :length].tolist(), v[0, :length].tolist(), float(after), gamma, lam)
    close(found[0, :length], expected)
    close(found[0, length:], [0.0] * padding)


@given(rewards, st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_reward_to_go_equals_the_definition(values: list[float], gamma: float) -> None:
    close(to_go(torch.tensor([values]), gamma)[0], loops.to_go(values, gamma), 1e-9)


# -- pairs ------------------------------------------------------------------------------------------------------
@given(st.permutations(range(6)))
def test_pairs_are_found_by_id_in_any_order(order: list[int]) -> None:
    """Pairs 3: (0, 1), 8: (2, 3); rows 4 and 5 belong to none."""
    pair, rank = [3, 3, 8, 8, 3, 8], [0, 1, 0, 1, -1, -1]
    batch = with_row(ragged((2,) * 6), pair=[pair[o] for o in order], rank=[rank[o] for o in order])
    found = [[order[i] for i in sides] for sides in pair_rows(batch).tolist()]
    assert found == [[0, 1], [2, 3]]


def test_values_on_anchor_rows_carry_gradient() -> None:
    value = torch.tensor([2.0, 5.0], requires_grad=True)
    found = at_rows(value, torch.tensor([3, 1]), 4)
    close(found, [0.0, 5.0, 0.0, 2.0])
    (found * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    close(value.grad, [1000.0, 10.0])


def test_a_pair_with_two_preferred_rows_is_refused() -> None:
    batch = with_row(ragged(), pair=[0, 0, 1, 1], rank=[0, 0, 0, 1])
    with pytest.raises(ValueError, match="exactly one row of rank 0"):
        pair_rows(batch)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_total_reward_ignores_padding(values: list[float]) -> None:
    batch = rewarded(ragged(), values)
    garbage = torch.where(batch.valid, batch.step["reward"], NAN)
    assume(all(math.isfinite(v) for v in values))
    close(total_reward(batch.with_steps({"reward": garbage})), values)
