"""Traps 1 to 8: normalisation and aggregation. Every test is a plain function, so that
`test_mutations` can call it with a bug planted."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cases
from cases import CASES, Case
from policyopt.compose import Term, trained_steps
from policyopt.constraint.divergence import KLToReference
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import ClippedSurrogate, PolicyGradient
from policyopt.run import StageContext
from policyopt.types import Batch
from policyopt.update.averaging import RowMean, SequenceMean, SequenceSum, TokenMean
from policyopt.update.gradient import GradientSteps, _micro_loss, couples_of, plan
from policyopt.update.micro_batches import split
from policyopt.update.optimizers import SGD
from support import (
    close,
    context,
    full_step,
    grids,
    method,
    on_ranks,
    partitions,
    per_row,
    ragged,
    widened,
)

pytestmark = pytest.mark.usefixtures("float64")


def by_parts(ctx: StageContext, batch: Batch, parts: list[list[int]], model: str) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a step that is computed in the given micro-batches."""
    (parameter, *_) = ctx.models[model].parameters() if model == "policy" else [ctx.models[model].values]
    planned = plan(ctx, batch, ctx.stage.terms)
    value, gradient = torch.zeros(()), torch.zeros_like(parameter)
    for part in parts:
        rows = torch.tensor(part)
        loss = _micro_loss(ctx, batch, rows, planned)
        value = value + loss.detach()
        if loss.requires_grad:
            (found,) = torch.autograd.grad(loss, parameter, allow_unused=True)
            gradient = gradient + found if found is not None else gradient
    return value, gradient


def whole(ctx: StageContext, batch: Batch, model: str) -> tuple[Tensor, Tensor]:
    return by_parts(ctx, batch, [list(range(len(batch)))], model)


def keeps_pairs(parts: list[list[int]]) -> bool:
    return all((0 in part) == (2 in part) and (1 in part) == (3 in part) for part in parts)


def check_partitions(case: Case, average: object, every: list[list[list[int]]]) -> None:
    ctx, batch = case.context(average), cases.rich()
    value, gradient = whole(ctx, batch, case.trains)
    assert float(gradient.abs().max()) > 1e-3
    for parts in every:
        if case.coupled and not keeps_pairs(parts):
            continue
        found, slope = by_parts(ctx, batch, parts, case.trains)
        close(found, value, what=f"loss in parts {parts}")
        close(slope, gradient, what=f"gradient in parts {parts}")


def test_trap_01_token_mean_is_over_the_whole_step() -> None:
    """Every partition of lengths 1, 2, 7, 13 into micro-batches; and the closed form -A_t / number of tokens."""
    case = CASES["policy_gradient"]
    check_partitions(case, TokenMean(), list(partitions(range(4))))
    batch = per_row(ragged(tools=False), [1.0, -2.0, 3.0, 0.5])
    _, gradient = full_step(case.context(TokenMean()), batch, micro_rows=1)
    close(gradient[:4, 0], [-0.7 / 23, 1.4 / 23, -2.1 / 23, -0.35 / 23])


def test_trap_02_one_owner_of_the_scale() -> None:
    """Accumulation over 1, 2, 4 and 8 micro-batches moves the policy alike, by the closed form."""
    lengths = (1, 2, 7, 13, 3, 5, 2, 4)
    for rows in (8, 4, 2, 1):
        batch = per_row(ragged(lengths, tools=False), [2.0] * 8)
        update = GradientSteps({"policy": SGD(0.5)}, micro_rows=rows, clip_norm=None)
        made = method(Term("one", PolicyGradient(), TokenMean()), update=update)
        ctx = context(made, grids())
        before = ctx.models["policy"].logp.detach().clone()
        update(ctx, batch)
        moved = ctx.models["policy"].logp.detach() - before
        close(moved[:8, :13], torch.where(batch.own, 0.5 * 2.0 / 37, 0.0), what=f"micro_rows {rows}")


def test_trap_03_the_window_is_the_optimiser_step() -> None:
    """Four micro-batches with a step every two: as two steps of a single-batch loop, each with its own count."""
    update = GradientSteps({"policy": SGD(0.5)}, minibatches=2, micro_rows=1, clip_norm=None)
    ctx = context(method(Term("one", NegativeLogLikelihood(), TokenMean()), update=update, roles={}), grids())
    batch, before = ragged(tools=False), ctx.models["policy"].logp.detach().clone()
    update(ctx, batch)
    moved = ctx.models["policy"].logp.detach() - before
    assert ctx.updates == 2
    # Tokens of a row moved by 0.5 / n, n the tokens of its minibatch: rows that share n were together.
    counts = [round(0.5 / float(moved[b, 0])) for b in range(4)]
    lengths = batch.lengths.tolist()
    for count in set(counts):
        together = [b for b in range(4) if counts[b] == count]
        assert len(together) == 2
        assert sum(lengths[b] for b in together) == count
    close(moved[:4, :13], torch.where(batch.own, 0.5 / torch.tensor(counts)[:, None], 0.0))


def check_ranks(case: Case, average: object) -> None:
    batch = cases.rich()
    full = case.context(average)
    value, gradient = whole(full, batch, case.trains)
    for parts in ([[0, 1, 2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]], [[3], [0, 1, 2]]):
        if case.coupled and not keeps_pairs(parts):
            continue

        def work(rank: int, total: object, parts: list = parts) -> tuple[Tensor, Tensor]:
            ctx = case.context(average)
            ctx.total = total
            return whole(ctx, batch[torch.tensor(parts[rank])], case.trains)

        results = on_ranks(len(parts), work)
        close(sum(r[0] for r in results), value, what=f"loss over ranks {parts}")
        close(sum(r[1] for r in results), gradient, what=f"gradient over ranks {parts}")


def test_trap_04_ranks_of_uneven_counts_sum_to_one_step() -> None:
    for average, _ in cases.AVERAGES.values():
        check_ranks(CASES["clipped"], average)
    check_ranks(CASES["geometric"], RowMean())
    check_ranks(CASES["pair_logistic"], RowMean())


def with_masked_row(batch: Batch) -> Batch:
    """One more row, a copy of the last, that is trained on nowhere."""
    size = len(batch)
    longer = batch[torch.tensor([*range(size), size - 1])]
    train = longer.step["train"].clone()
    train[-1] = False
    return longer.with_steps({"train": train})


def test_trap_05_masked_steps_leave_the_denominator() -> None:
    for key, case in CASES.items():
        if case.unit == "pair":
            continue
        for name, (average, _) in cases.averages(case).items():
            ctx, batch = case.context(average), cases.rich()
            value, gradient = whole(ctx, batch, case.trains)
            found, slope = whole(ctx, with_masked_row(batch), case.trains)
            close(found, value, what=f"{key} {name}: loss with a masked row")
            close(slope, gradient, what=f"{key} {name}: gradient with a masked row")


def test_trap_05_a_wholly_masked_batch_is_exactly_zero() -> None:
    for key, case in CASES.items():
        for name, (average, _) in cases.averages(case).items():
            batch = cases.rich()
            batch = batch.with_steps({"train": torch.zeros_like(batch.step["train"])})
            found, slope = whole(case.context(average), batch, case.trains)
            assert float(found) == 0.0, f"{key} {name}"
            assert torch.equal(slope, torch.zeros_like(slope)), f"{key} {name}"


def test_trap_06_neither_padding_nor_micro_batches_enter_the_scale() -> None:
    for key, case in CASES.items():
        for name, (average, _) in cases.averages(case).items():
            ctx, batch = case.context(average), cases.rich()
            value, gradient = full_step(ctx, batch, model=case.trains)
            for micro in (1, 2, 3):
                found, slope = full_step(ctx, widened(batch, 3 * micro), micro, case.trains)
                close(found, value, what=f"{key} {name} micro {micro}")
                close(slope, gradient, what=f"{key} {name} micro {micro}")
    # The configured constant, in closed form: 2 rows of A = 3 over 9 and 2 rows.
    batch = per_row(ragged((2, 5), tools=False), [3.0, 3.0])
    _, slope = full_step(CASES["policy_gradient"].context(SequenceSum(9.0)), widened(batch, 4), 1)
    close(slope[:2, :5], torch.where(batch.own, -0.7 * 3.0 / 2 / 9, 0.0))


def test_trap_07_every_term_scales_alone() -> None:
    """The weighted sum of terms with different denominators, in every partition; then test 1 for every term and
    averaging: row by row, which with additivity says it of all partitions, in uneven parts and by coupled pairs."""
    terms = (
        Term("policy", ClippedSurrogate(), SequenceMean()),
        Term("kl", KLToReference(), TokenMean(), weight=0.3),
        Term("own", NegativeLogLikelihood(), SequenceSum(5.0), weight=0.2),
    )
    batch, models = cases.rich(), grids()
    alone = [whole(context(method(term), models), batch, "policy") for term in terms]
    together = context(method(*terms), models)
    for parts in partitions(range(4)):
        value, gradient = by_parts(together, batch, parts, "policy")
        close(value, sum(a[0] for a in alone))
        close(gradient, sum(a[1] for a in alone))
    for case in CASES.values():
        for average, _ in cases.averages(case).values():
            check_partitions(case, average, [[[0], [1], [2], [3]], [[3], [0, 1, 2]], [[0, 2], [1, 3]]])


def test_trap_08_length_weights_are_the_documented_ones() -> None:
    """Two rows of equal advantage, lengths 10 and 100: weight of a token, short row to long row."""
    batch = per_row(ragged((10, 100), tools=False), [1.0, 1.0])
    case = CASES["policy_gradient"]
    for average, ratio in ((SequenceMean(), 10.0), (TokenMean(), 1.0), (SequenceSum(7.0), 1.0)):
        _, gradient = full_step(case.context(average), batch)
        close(gradient[0, 0] / gradient[1, 0], ratio, what=type(average).__name__)


def test_minibatches_keep_coupled_rows_together() -> None:
    batch = ragged((1, 2, 7, 13, 3, 5, 2, 4))
    term = CASES["pair_logistic"].term()
    assert couples_of([term]) == ("pair",)
    for pieces in (1, 2, 3, 4, 9):
        parts = split(batch, pieces, ("pair",), torch.Generator().manual_seed(pieces))
        assert sorted(torch.cat(parts).tolist()) == list(range(8))
        assert len(parts) == min(pieces, 4)
        for rows in parts:
            sides = batch.row["pair"][rows].bincount()
            assert set(sides[sides > 0].tolist()) == {2}


def test_a_mask_may_be_narrower_than_the_batch() -> None:
    """A term's own mask has its own denominator."""

    def first_step(seen: object, batch: Batch) -> Tensor:
        return trained_steps(seen, batch) & (torch.arange(batch.steps) == 0)

    term = replace(CASES["policy_gradient"].term(TokenMean(), weight=1.0), mask=first_step)
    batch = per_row(ragged(), [1.0, 2.0, 3.0, 4.0])
    _, gradient = full_step(context(method(term), grids()), batch)
    close(gradient[:4, 0], [-0.25, -0.5, -0.75, -1.0])
    assert float(gradient[:, 1:].abs().max()) == 0.0
