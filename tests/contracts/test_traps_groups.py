"""Traps 9 to 13: statistics of groups, whitening, unscored rows, groups of equal rewards."""

import math

import pytest
import torch
from torch import Tensor

import loops
from enumeration import Grades
from policyopt.compose import Term
from policyopt.constraint.divergence import K2Loss
from policyopt.credit.groups import GroupCentred, GroupStandardised, LeaveOneOut
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.masked import whiten
from policyopt.reward.parts import Verified
from policyopt.selection.tasks import EveryRow, InformativeGroups
from policyopt.train import _judge
from policyopt.types import Batch
from policyopt.update.averaging import SequenceMean
from support import (
    NAN,
    close,
    context,
    full_step,
    grid,
    grids,
    method,
    numbers,
    on_ranks,
    ragged,
    rewarded,
    with_row,
)

pytestmark = pytest.mark.usefixtures("float64")


REWARDS = [0.5, 2.0, -1.0, 4.0, 0.25, 2.5, 3.0, 8.0]
GROUPS = [7, 3, 7, 3, 7, 3, 11, 3]  # interleaved, uneven, one group of one
CREDITS = {
    GroupStandardised(): loops.standardised,
    GroupStandardised(epsilon=0.1, ddof=0): lambda r, g, s: loops.standardised(r, g, s, 0.1, 0),
    GroupCentred(): loops.centred,
    LeaveOneOut(): loops.leave_one_out,
}


def grouped(rows: list[int] | None = None) -> Batch:
    batch = with_row(rewarded(ragged((1, 2, 7, 13, 3, 5, 2, 4)), REWARDS), group=GROUPS)
    return batch if rows is None else batch[torch.tensor(rows)]


def advantages(credit: object, batch: Batch) -> Tensor:
    """One number per row, after checking that a row's own steps share it and others have none."""
    column = credit(None, batch).step["advantage"]
    values = (column * batch.own).sum(1) / batch.lengths
    close(column, torch.where(batch.own, values[:, None], 0.0), what="one advantage per row, on own steps")
    return values


def test_trap_09_groups_are_ids() -> None:
    """Interleaved, partial and permuted groups against a dictionary; a group of one has advantage 0."""
    for credit, reference in CREDITS.items():
        for rows in (list(range(8)), [5, 0, 3, 7, 6, 2, 1, 4], [0, 1, 3, 4, 6], [2, 6, 7, 3]):
            batch = grouped(rows)
            rewards, groups = [REWARDS[r] for r in rows], [GROUPS[r] for r in rows]
            expected = reference(rewards, groups, [True] * len(rows))
            close(advantages(credit, batch), expected, what=f"{credit} of rows {rows}")
            if 6 in rows:
                assert float(advantages(credit, batch)[rows.index(6)]) == 0.0


def test_trap_10_whitening_counts_every_rank_and_no_padding() -> None:
    batch, values = ragged(), numbers(4, 13, seed=9)
    kept = [values[b, t].item() for b, t in batch.trained.nonzero().tolist()]
    mean = sum(kept) / len(kept)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in kept) / (len(kept) - 1))
    expected = torch.where(batch.trained, (values - mean) / (deviation + 1e-8), 0.0)
    poisoned = torch.where(batch.trained, values, NAN)
    close(whiten(poisoned, batch.trained), expected, what="one rank")
    for cuts in ((5,), (2, 7), (1, 3, 9)):
        bounds = [0, *cuts, 13]

        def work(rank: int, total: object, bounds: list = bounds) -> Tensor:
            steps = slice(bounds[rank], bounds[rank + 1])
            return whiten(poisoned[:, steps], batch.trained[:, steps], total)

        found = torch.cat(on_ranks(len(bounds) - 1, work), 1)
        close(found, expected, what=f"context ranks cut at {cuts}")


def test_trap_11_whitening_equal_numbers_gives_exactly_zero() -> None:
    """The rounded mean of equal numbers is another number; without care all of them come out as up to 1."""
    for number in (1.0, 0.1, 0.7, -2.3, 1000.1):
        for shape in ((64, 16), (33, 7), (128, 100)):
            for dtype in (torch.float64, torch.float32):
                equal = torch.full(shape, number, dtype=dtype)
                mask = torch.arange(shape[1]).expand(shape) < 1 + torch.arange(shape[0])[:, None] % shape[1]
                found = whiten(torch.where(mask, equal, NAN), mask)
                assert torch.equal(found, torch.zeros_like(found)), f"{number}, {shape}, {dtype}"
    close(whiten(torch.tensor([1000.1, 1000.2]), torch.ones(2, dtype=torch.bool)), [-(0.5**0.5), 0.5**0.5], 1e-6)


def test_trap_11_standard_deviation_and_epsilon() -> None:
    """Rewards 0, 0, 0, 1: mean 1/4, variance 1/4 with divisor n - 1 and 3/16 with n; equal rewards exactly 0."""
    batch = with_row(rewarded(ragged(), [0.0, 0.0, 0.0, 1.0]), group=[1, 1, 1, 1])
    biased = math.sqrt(3) / 4
    for credit, deviation in (
        (GroupStandardised(), 0.5 + 1e-6),
        (GroupStandardised(epsilon=0.5), 1.0),
        (GroupStandardised(ddof=0), biased + 1e-6),
    ):
        close(advantages(credit, batch), [-0.25 / deviation] * 3 + [0.75 / deviation], what=str(credit))
    for reward in (1.0, 0.1, 1000.1):
        for dtype in (torch.float64, torch.float32):
            equal = with_row(ragged((1, 2, 7, 13, 3, 5, 2)), group=[1] * 7)
            column = torch.zeros_like(equal.step["reward"], dtype=dtype)
            column[:, 0] = reward
            found = GroupStandardised()(None, equal.with_steps({"reward": column})).step["advantage"]
            assert torch.equal(found, torch.zeros_like(found)), f"equal rewards {reward} in {dtype}"
            assert not len(InformativeGroups()(None, equal.with_steps({"reward": column})))


def test_trap_12_an_unscored_row_leaves_statistics_and_losses() -> None:
    """The grader fails on row 2: others' advantages are those of the group without it; it is trained on nowhere."""
    grades = [0.5, 2.0, NAN, 4.0, 0.25, 2.5, 3.0, 8.0]
    lengths = (1, 2, 7, 13, 3, 5, 2, 4)
    ctx = context(method(), grids(), Grades(grades))
    judged = Verified()(ctx, with_row(ragged(lengths), group=GROUPS))
    assert judged.row["scored"].tolist() == [True, True, False, True, True, True, True, True]
    rows = [0, 1, 3, 4, 5, 6, 7]
    for credit, reference in CREDITS.items():
        expected = reference([grades[r] for r in rows], [GROUPS[r] for r in rows], [True] * 7)
        found = advantages(credit, judged)
        close(found[torch.tensor(rows)], expected, what=str(credit))
        assert float(found[2]) == 0.0
    world = Grades(grades)
    made = method(Term("one", NegativeLogLikelihood(), SequenceMean()), reward=Verified())
    ctx = context(made, grids(), world)
    trained = _judge(ctx)(ragged(lengths))
    value, gradient = full_step(ctx, trained)
    expected, slope = full_step(ctx, trained[torch.tensor(rows)])
    close(value, expected)
    close(gradient, slope)


def test_trap_12_unknown_rewards_of_unscored_rows_never_enter() -> None:
    """Even if a part left nan in the reward of an unscored row."""
    batch = with_row(grouped(), scored=[True, True, False, True, True, True, True, True])
    reward = batch.step["reward"].clone()
    reward[2] = NAN
    poisoned = batch.with_steps({"reward": reward})
    for credit in CREDITS:
        close(advantages(credit, poisoned), advantages(credit, batch), what=str(credit))


def test_trap_13_policies_for_groups_of_equal_rewards() -> None:
    """Group 7 has equal rewards. Kept: advantage 0, but its rows count in denominators and in the KL term.
    Dropped: they leave both terms. By hand."""
    credited = GroupStandardised(epsilon=0.0)(None, rewarded(ragged(tools=False), [1.0, 0.0, 1.0, 2.0]))
    root = 1 / math.sqrt(2)  # rewards 0 and 2: (0 - 1) / sqrt 2 and (2 - 1) / sqrt 2
    models = grids()
    models["old"] = grid(0)  # equals the policy: ratio 1
    terms = (
        Term("policy", ClippedSurrogate(), SequenceMean()),
        Term("k2", K2Loss(), SequenceMean(), weight=0.5),
    )
    ctx = context(method(*terms), models)
    gap = (models["policy"].logp - models["reference"].logp).detach()[:4, :13]
    sign = torch.tensor([0.0, -root, 0.0, root])[:, None]
    for keep, rows in ((EveryRow(), [0, 1, 2, 3]), (InformativeGroups(), [1, 3])):
        kept = keep(None, credited)
        assert kept.row["_row"].tolist() == rows
        _, gradient = full_step(ctx, kept)
        inside = torch.zeros(4, 1)
        inside[rows] = 1.0
        expected = inside * (-sign + 0.5 * gap) / credited.lengths[:, None] / len(rows)
        close(gradient[:4, :13], torch.where(credited.own, expected, 0.0), what=type(keep).__name__)
