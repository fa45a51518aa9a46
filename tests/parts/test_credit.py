"""Credit: properties that hold for every reward, and the columns each part writes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loops
from one_core import kind, recorded
from policyopt.compose import CompositionError
from policyopt.credit.groups import GroupCentred, GroupStandardised, LeaveOneOut
from policyopt.credit.returns import GeneralisedAdvantage, ReturnToGo
from policyopt.credit.success import PrefixSuccess
from policyopt.credit.tokens import PrefixLabels
from policyopt.credit.turns import TurnAdvantage
from policyopt.engines.plain import generate
from support import close, context, grid, grids, method, ragged, rewarded, widened, with_row

pytestmark = pytest.mark.usefixtures("float64")

GROUPED = (GroupStandardised(), GroupStandardised(0.2, 0), GroupCentred(), LeaveOneOut())
LENGTHS = (1, 2, 7, 13, 3, 5)
six = st.lists(st.integers(-8, 8), min_size=6, max_size=6)
ids = st.lists(st.integers(0, 2), min_size=6, max_size=6)
flags = st.lists(st.booleans(), min_size=6, max_size=6)


def batch_of(rewards: list[int], groups: list[int], scored: list[bool]):
    return with_row(rewarded(ragged(LENGTHS), [float(r) for r in rewards]), group=groups, scored=scored)


def context_of() -> object:
    return context(method(), grids())


@given(six, ids, flags)
def test_group_credit_equals_the_loops(rewards: list[int], groups: list[int], scored: list[bool]) -> None:
    batch = batch_of(rewards, groups, scored)
    expected = (
        loops.standardised(rewards, groups, scored),
        loops.standardised(rewards, groups, scored, 0.2, 0),
        loops.centred(rewards, groups, scored),
        loops.leave_one_out(rewards, groups, scored),
    )
    for credit, values in zip(GROUPED, expected, strict=True):
        by_hand = torch.where(batch.own, torch.tensor(values)[:, None], 0.0)
        close(credit(None, batch).step["advantage"], by_hand, what=str(credit))


@given(six, ids, st.integers(-50, 50))
def test_a_constant_in_all_rewards_changes_no_group_credit(rewards: list[int], groups: list[int], shift: int) -> None:
    base = batch_of(rewards, groups, [True] * 6)
    moved = batch_of([r + shift for r in rewards], groups, [True] * 6)
    for credit in GROUPED:
        close(credit(None, moved).step["advantage"], credit(None, base).step["advantage"], what=str(credit))


@given(six, ids, flags, st.permutations(range(6)), st.integers(1, 4))
def test_rows_may_be_permuted_and_padded(rewards, groups, scored, order, padding) -> None:
    batch = batch_of(rewards, groups, scored)
    ctx = context_of()
    for credit in (*GROUPED, ReturnToGo(0.9), GeneralisedAdvantage(0.9, 0.7)):
        plain, permuted = credit(ctx, batch), credit(ctx, batch[torch.tensor(order)])
        wide = credit(ctx, widened(batch, padding))
        for column in credit.writes:
            close(permuted.step[column], plain.step[column][order], what=f"{credit} permuted")
            close(wide.step[column][:, :13], plain.step[column], what=f"{credit} padded")
            close(wide.step[column][:, 13:], torch.zeros(6, padding), what=f"{credit} padding")


@given(six, ids)
def test_credit_of_a_group_sums_to_zero(rewards: list[int], groups: list[int]) -> None:
    batch = batch_of(rewards, groups, [True] * 6)
    for credit in GROUPED:
        advantage = credit(None, batch).step["advantage"][:, 0]
        for group in set(groups):
            close(advantage[batch.row["group"] == group].sum(), 0.0, 1e-9, what=str(credit))


@pytest.mark.parametrize("credit", [*GROUPED, ReturnToGo(), GeneralisedAdvantage()])
def test_parts_write_what_they_declare_on_own_steps_only(credit) -> None:
    found = credit(context_of(), ragged())
    for column in credit.writes:
        assert float(found.step[column][~found.own].abs().max()) == 0.0
        assert float(found.step[column][found.own].abs().max()) > 0.0


def test_equal_rewards_are_worth_exactly_nothing() -> None:
    """Their mean is rounded, and a row with an advantage of 1e-17 would not be skipped as idle."""
    assert (0.1 + 0.1 + 0.1) / 3 != 0.1
    batch = with_row(rewarded(ragged((1,) * 6), [0.1, 0.7, 0.1, 0.1, 0.7, 0.7]), group=[0, 1, 0, 0, 1, 1])
    for credit in (*GROUPED, TurnAdvantage(None)):
        assert not credit(context_of(), batch).step["advantage"].any(), credit


def test_unscored_rows_get_no_advantage_from_a_critic() -> None:
    batch = with_row(ragged(), scored=[True, True, True, False])
    ctx = context(method(), grids())
    found = GeneralisedAdvantage(0.9, 0.5)(ctx, batch)
    assert float(found.step["advantage"][3].abs().max()) == 0.0
    kept = found.step["advantage"][:3][batch.own[:3]]
    close(kept.mean(), 0.0, what="whitened over scored rows alone")
    close(kept.std(), 1.0, 1e-7)


@pytest.mark.parametrize("options", [{"gamma": 1.1}, {"gamma": -0.1}, {"lam": 2.0}])
def test_discounts_out_of_range_are_refused(options) -> None:
    with pytest.raises(CompositionError, match=r"0\.\.1"):
        GeneralisedAdvantage(**options)
    if "gamma" in options:
        with pytest.raises(CompositionError, match=r"0\.\.1"):
            ReturnToGo(**options)


def test_deviations_of_other_divisors_are_refused() -> None:
    for options in ({"ddof": 2}, {"epsilon": -1e-6}):
        with pytest.raises(CompositionError, match="ddof 0"):
            GroupStandardised(**options)


def test_gae_without_a_future_is_reward_less_value() -> None:
    """gamma 0: A_t = r_t - V_t, tool rewards folded in."""
    models = {"policy": grid(0), "critic": grid(4)}
    batch = ragged(tools=False)
    found = GeneralisedAdvantage(0.0, 0.5, whitened=False)(context(method(), models), batch)
    value = models["critic"].values.detach()[:4, :13]
    close(found.step["advantage"], torch.where(batch.own, batch.step["reward"] - value, 0.0))
    close(found.step["return"], torch.where(batch.own, batch.step["reward"], 0.0))


class PaidAtTheEnd:
    """A world that pays steps, as one that grades rows."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def grade(self, batch):
        return self.inner.grade(batch).sum(1)


@pytest.mark.parametrize("part", [PrefixSuccess(4, 0.5), PrefixLabels(4, 0.5)])
def test_completions_are_graded_as_rows_where_every_step_is_paid(part) -> None:
    of = kind("tabular")
    found = []
    for world in (recorded(of), PaidAtTheEnd(recorded(of))):
        ctx = context(method(), of.models, world, generate)
        found.append(part(ctx, of.rows).step["label"])
    assert found[0].abs().sum() > 0
    assert torch.equal(*found)
