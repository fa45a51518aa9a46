"""Updates: units and minibatches, refusal of broken gradients, clipping, schedules, models that follow."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, rich
from policyopt.compose import CompositionError, Loss, Program, Stage, Term
from policyopt.objective.surrogates import PolicyGradient
from policyopt.objective.value import SquaredValueError
from policyopt.types import Round
from policyopt.update.averaging import SequenceMean, SequenceSum, TokenMean
from policyopt.update.following import Average, Refresh
from policyopt.update.gradient import GradientSteps, NonFiniteGradientError
from policyopt.update.micro_batches import split, units
from policyopt.update.optimizers import SGD, AdamW, Constant, Cosine, Linear
from support import Grid, close, context, full_step, grids, method, numbers, per_row, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


# -- minibatches ------------------------------------------------------------------------------------------------
def test_units_join_rows_over_several_columns() -> None:
    """0-1 share a pair, 1-4 a group, 2 and 3 share neither with them."""
    batch = with_row(ragged((2,) * 5), pair=[0, 0, 1, 2, 3], group=[5, 6, 7, 8, 6])
    assert units(batch, ("pair",)).tolist() == [0, 0, 2, 3, 4]
    assert units(batch, ("group", "pair")).tolist() == [0, 0, 2, 3, 0]
    assert units(batch, ()).tolist() == [0, 1, 2, 3, 4]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 99))
def test_split_is_a_partition_that_separates_no_unit(pairs: list[int], pieces: int, seed: int) -> None:
    batch = with_row(ragged((2,) * len(pairs)), pair=pairs)
    for rng in (None, torch.Generator().manual_seed(seed)):
        parts = split(batch, pieces, ("pair",), rng)
        assert sorted(itertools.chain(*(p.tolist() for p in parts))) == list(range(len(pairs)))
        assert len(parts) == min(pieces, len(set(pairs)))
        for pair in set(pairs):
            holders = [i for i, p in enumerate(parts) if pair in batch.row["pair"][p].tolist()]
            assert len(holders) == 1
    assert split(batch[torch.zeros(0, dtype=torch.int64)], 2, ()) == []


def test_epochs_visit_every_row_and_shuffle_differently() -> None:
    """Two epochs of eight minibatches of one row: 16 updates, orders differ, each epoch is a permutation."""

    seen = []

    class Spy(PolicyGradient):
        def __call__(self, seen_batch, batch):
            seen.append(batch.row["_row"].tolist())
            return super().__call__(seen_batch, batch)

    update = GradientSteps({"policy": SGD(0.1)}, epochs=2, minibatches=8)
    ctx = context(method(Term("a", Spy(), TokenMean()), update=update), grids())
    update(ctx, ragged((2,) * 8))
    assert ctx.updates == 16
    flat = [row for (row,) in seen]
    assert sorted(flat[:8]) == sorted(flat[8:]) == list(range(8))
    assert flat[:8] != flat[8:]
    assert flat[:8] != list(range(8))


# -- properties of the whole step ---------------------------------------------------------------------------------
@given(st.permutations(range(4)), st.sampled_from(sorted(CASES)))
def test_rows_may_be_permuted(order: list[int], key: str) -> None:
    case, batch = CASES[key], rich()
    ctx = case.context()
    value, gradient = full_step(ctx, batch, model=case.trains)
    found, slope = full_step(ctx, batch[torch.tensor(order)], model=case.trains)
    close(found, value)
    close(slope, gradient)


# -- the step -----------------------------------------------------------------------------------------------------
class Broken(Loss):
    """A loss whose value or gradient is not finite at a trained step."""

    def __call__(self, seen, batch):
        return seen["policy"].logp * float("nan")


def test_a_broken_gradient_leaves_the_model_as_it_was() -> None:
    update = GradientSteps({"policy": AdamW(0.1)})
    ctx = context(method(Term("broken", Broken(), TokenMean()), update=update), grids())
    before = ctx.models["policy"].logp.detach().clone()
    with pytest.raises(NonFiniteGradientError, match=r"'policy' is nan in round 0 \(terms \['broken'\]\)"):
        update(ctx, ragged())
    assert torch.equal(ctx.models["policy"].logp.detach(), before)


def test_gradient_norm_is_reported_before_it_is_bounded() -> None:
    """A = 3 on 4 rows of one step, sequence sums: gradient 3/4 each, norm 1.5; bounded to 0.5."""
    batch = per_row(ragged((1, 1, 1, 1)), [3.0] * 4)
    for bound, moved in ((None, 0.75), (0.5, 0.25), (2.0, 0.75)):
        update = GradientSteps({"policy": SGD(1.0)}, clip_norm=bound)
        models = grids()
        before = models["policy"].logp.detach().clone()
        ctx = context(method(Term("a", PolicyGradient(), SequenceSum()), update=update), models)
        update(ctx, batch)
        change = (models["policy"].logp.detach() - before)[:4, 0]
        close(change, [moved] * 4, 1e-6, what=f"bound {bound}")
        close(ctx.meter.result()["gradient_norm/policy"], 1.5)


@pytest.mark.parametrize(("over", "moved"), [("model", (0.5, 0.5)), ("all", (0.3, 0.4))])
def test_the_bound_is_on_each_model_or_on_all_together(over, moved) -> None:
    """Gradients 3/4 and 1 on 4 rows: norms 1.5 and 2, together 2.5; the bound is 1."""
    batch = per_row(per_row(ragged((1, 1, 1, 1)), [3.0] * 4), [4.0] * 4, "return")
    models = {"policy": grids()["policy"], "critic": Grid(values=torch.zeros(8, 14))}
    before = models["policy"].logp.detach().clone()
    terms = (
        Term("a", PolicyGradient(), SequenceSum()),
        Term("value", SquaredValueError(), SequenceSum(), trains="critic"),
    )
    update = GradientSteps({"policy": SGD(1.0), "critic": SGD(1.0)}, clip_norm=1.0, clip_over=over)
    ctx = context(method(*terms, update=update), models)
    update(ctx, batch)
    close((models["policy"].logp.detach() - before)[:4, 0], [moved[0]] * 4, 1e-5)
    close(models["critic"].values.detach()[:4, 0], [moved[1]] * 4, 1e-5)
    found = ctx.meter.result()
    close(found["gradient_norm/policy"], 1.5)
    close(found["gradient_norm/critic"], 2.0)


def test_the_optimiser_is_kept_between_calls_and_told_its_rate() -> None:
    """Momentum 0.5, learning rate decaying linearly from 1 to 0 over 10 rounds: changes 1, (0.5 + 1) * 0.9."""
    update = GradientSteps({"policy": SGD(1.0, 0.5, Linear())}, clip_norm=None)
    models = {"policy": Grid(logp=torch.zeros(8, 3))}
    ctx = context(method(Term("a", PolicyGradient(), SequenceMean()), update=update, roles={}), models)
    batch = per_row(ragged((1,)), [1.0])
    update(ctx, batch)
    close(models["policy"].logp[0, 0], 1.0)
    ctx.run.step = 1
    update(ctx, batch)
    close(models["policy"].logp[0, 0], 1.0 + 1.5 * 0.9)


def test_counts_below_one_are_refused() -> None:
    for options in ({"epochs": 0}, {"minibatches": 0}, {"micro_rows": 0}):
        with pytest.raises(CompositionError, match="at least 1"):
            GradientSteps({}, **options)
    with pytest.raises(CompositionError, match="clip_norm must be above 0"):
        GradientSteps({}, clip_norm=0.0)


# -- schedules and optimisers -------------------------------------------------------------------------------------
def test_schedules_by_hand() -> None:
    close(torch.tensor([Constant(4).factor(s, 10) for s in (0, 1, 3, 9)]), [0.25, 0.5, 1.0, 1.0])
    close(torch.tensor([Linear().factor(s, 10) for s in (0, 5, 9, 10, 20)]), [1.0, 0.5, 0.1, 0.0, 0.0])
    close(torch.tensor([Linear(2, 0.5).factor(s, 10) for s in (0, 1, 2, 6)]), [0.5, 1.0, 1.0, 0.75])
    close(torch.tensor([Cosine().factor(s, 10) for s in (0, 5, 10)]), [1.0, 0.5, 0.0])
    close(torch.tensor([Cosine(0, 0.2).factor(s, 10) for s in (5, 10)]), [0.6, 0.2])
    close(torch.tensor([Cosine(2).factor(s, 10) for s in (0, 1, 2, 6, 10)]), [0.5, 1.0, 1.0, 0.5, 0.0])
    assert AdamW(0.3, schedule=Linear()).at(5, 10) == pytest.approx(0.15)


def test_first_adam_step_is_the_sign() -> None:
    """m / sqrt(v) of one gradient is its sign; weight decay is decoupled: 2 (1 - 0.1 * 0.5) - 0.1."""
    parameter = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = AdamW(0.1, weight_decay=0.5, epsilon=0.0).make([parameter])
    parameter.grad = torch.tensor([123.0])
    optimizer.step()
    close(parameter, [2 * 0.95 - 0.1])


# -- models that follow -------------------------------------------------------------------------------------------
def after(part, models, step: int = 0) -> None:
    ctx = context(method(), models)
    ctx.run.step = step
    part(ctx, Round(rich(), rich(), rich(), {}))


def test_moving_average_by_hand() -> None:
    models = {"policy": Grid(logp=torch.full((1, 1), 4.0)), "old": Grid(logp=torch.full((1, 1), 2.0))}
    for expected in (2.5, 2.875):
        after(Average("old", decay=0.75), models)
        close(models["old"].logp, [[expected]])
    close(models["policy"].logp, [[4.0]])


def test_moving_average_copies_what_is_not_a_float() -> None:
    models = {"policy": torch.nn.BatchNorm1d(1), "old": torch.nn.BatchNorm1d(1)}
    models["policy"].num_batches_tracked.fill_(7)
    after(Average("old"), models)
    assert int(models["old"].num_batches_tracked) == 7


def test_refresh_every_third_round_of_the_stage() -> None:
    models = {"policy": Grid(logp=numbers(1, 1)), "old": Grid(logp=numbers(1, 1, seed=1))}
    start = models["old"].logp.detach().clone()
    for step in (0, 1):
        after(Refresh("old", every=3), models, step)
        assert torch.equal(models["old"].logp.detach(), start)
    after(Refresh("old", every=3), models, 2)
    assert torch.equal(models["old"].logp.detach(), models["policy"].logp.detach())


def test_weights_that_are_functions_see_the_whole_step() -> None:
    """Weight = number of rows it is given: micro-batches must not shrink it."""

    def rows(seen, batch):
        return torch.tensor(float(len(batch)))

    term = replace(CASES["policy_gradient"].term(), weight=rows)
    ctx = context(method(term), grids())
    value, gradient = full_step(ctx, rich())
    found, slope = full_step(ctx, rich(), 1)
    close(found, value)
    close(slope, gradient)
    plain, _ = full_step(context(method(replace(term, weight=1.0)), grids()), rich())
    close(value, 4 * plain)


class Planning(Loss):
    """A loss with statistics of the whole step: the largest |log pi| (a row column) and centred A (a step column)."""

    def plan(self, seen, batch):
        kept = batch.step["advantage"][batch.trained]
        largest = seen["policy"].logp[batch.trained].abs().max()
        planned = batch.with_rows({"largest": largest.expand(len(batch))})
        return planned.with_steps({"centred": batch.step["advantage"] - kept.mean()})

    def __call__(self, seen, batch):
        return -batch.step["centred"] * seen["policy"].logp / batch.row["largest"][:, None]


def test_statistics_of_the_whole_step_reach_every_micro_batch() -> None:
    models, batch = grids(), rich()
    ctx = context(method(Term("a", Planning(), TokenMean())), models)
    logp, advantage = models["policy"].logp.detach()[:4, :13], batch.step["advantage"]
    own = batch.trained
    scale = logp[own].abs().max() * own.sum()
    expected = torch.where(own, -(advantage - advantage[own].mean()) / scale, 0.0)
    for micro in (None, 1, 3):
        _, gradient = full_step(ctx, batch, micro)
        close(gradient[:4, :13], expected, what=f"micro_rows {micro}")


# -- forks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loaded", [False, True])
def test_a_model_goes_on_from_a_snapshot_with_its_optimiser(loaded: bool) -> None:
    """Two steps, a snapshot, two more; restored, the same two. Also where a checkpoint was loaded just before, whose
    optimisers nobody has asked for yet."""
    update = GradientSteps({"policy": AdamW(0.1)})
    made = method(Term("a", PolicyGradient(), TokenMean()), update=update)
    ctx = context(made, grids())

    def trained(times: int) -> torch.Tensor:
        for _ in range(times):
            update(ctx, ragged())
        return ctx.models["policy"].logp.detach().clone()

    trained(2)
    if loaded:
        ctx.run.load_state(copy.deepcopy(ctx.run.state()), Program((Stage(made, 9),)))
    kept = ctx.run.snapshot("policy")
    after, further = trained(2), trained(1)
    assert not torch.equal(after, further)
    for _ in range(2):
        ctx.run.restore(kept)
        assert torch.equal(trained(2), after)
