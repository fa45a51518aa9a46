"""Parts of denoising methods against loops: values, gradients, refusals."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import references_denoising as loops
from chains import denoiser, drawn
from enumeration import Fixed
from policyopt.compose import CompositionError, Role, Stage, Term, trained_rows
from policyopt.constraint.standard import NearStandardNormal
from policyopt.credit.denoising import OverDenoising
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.heads import PerHead
from policyopt.credit.history import TaskStandardised
from policyopt.credit.shares import GoodShare
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.clamped import ClampedSurrogate
from policyopt.objective.clipping import ClipByNoise
from policyopt.objective.matching import DenoisingRegression
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.transitions import Transition
from policyopt.run import Run, StageContext
from policyopt.sampling.progress import BackwardProgress
from policyopt.seen import SeenBatch
from policyopt.selection.extremes import BestAndWorst, ClearExtremes
from policyopt.selection.steps import RandomSteps
from policyopt.types import Scores
from policyopt.update.averaging import RowMean, TokenMean
from support import close, context, full_step, grids, method, ragged, rewarded, widened

pytestmark = pytest.mark.usefixtures("float64")


def on_chains(loss, average, mask, **models):
    """A context whose policy is a denoiser."""
    policy = denoiser()
    made = method(Term("a", loss, average, mask), roles={name: Role(name) for name in models})
    return policy, StageContext(Run({"policy": policy, **models}, None, None), Stage(made, 1))


def test_denoising_regression_equals_the_loops() -> None:
    loss = DenoisingRegression(points=3)
    policy, ctx = on_chains(loss, RowMean(), trained_rows)
    batch = loss.plan(SeenBatch(ctx, drawn(policy)), drawn(policy))
    matching = policy.match(batch)
    prediction = matching.prediction.detach().requires_grad_()
    found = matching.error(prediction).mean(1)
    found.sum().backward()
    close(SeenBatch(ctx, batch).match("policy").error().mean(1).detach(), found.detach())
    for b in range(len(batch)):
        value, slope = loops.regression(prediction[b].tolist(), matching.target[b].tolist())
        close(found[b], value)
        close(prediction.grad[b], torch.tensor(slope))


def test_the_pull_to_the_standard_normal_equals_the_loops() -> None:
    batch = ragged()
    mean = torch.randn(4, 13, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    std = (0.2 + torch.rand(4, 13, 3, generator=torch.Generator().manual_seed(2))).requires_grad_()
    ctx = context(method(roles={"policy": Role(grad=True, full=True)}), grids())
    seen = SeenBatch(ctx, batch, {("policy", True): Scores(mean.sum(-1), None, Transition(mean, std))})
    found = NearStandardNormal()(seen, batch)
    found.sum().backward()
    for b, t in batch.trained.nonzero().tolist():
        value, by_mean, by_std = loops.near_standard(mean[b, t].tolist(), std[b, t].tolist())
        close(found[b, t], value)
        close(mean.grad[b, t], by_mean)
        close(std.grad[b, t], by_std)
    assert float(found.detach()[~batch.trained].abs().max()) == 0.0
    assert float(mean.grad[~batch.trained].abs().max()) == 0.0
    with pytest.raises(CompositionError, match="full=True"):
        NearStandardNormal()(SeenBatch(context(method(), grids()), batch), batch)


def test_standardised_advantages_equal_the_loops() -> None:
    batch = ragged().with_steps({"discount": torch.rand(4, 13, generator=torch.Generator().manual_seed(3))})
    loss = StandardisedAdvantages(ClippedSurrogate(0.2, 0.2), low=0.1, high=0.8)
    made = method(Term("a", loss, TokenMean()), sampling=Fixed(batch, ("advantage", "discount")))
    value, gradient = full_step(context(made, grids()), batch)
    columns = (batch.step[name][batch.trained].tolist() for name in ("advantage", "discount"))
    prepared = torch.zeros(4, 13).masked_scatter(batch.trained, torch.tensor(loops.standardised(*columns, 0.1, 0.8)))
    plain = method(Term("a", loss.loss, TokenMean()))
    expected, by_hand = full_step(context(plain, grids()), batch.with_steps({"advantage": prepared}))
    close(value, expected)
    close(gradient, by_hand)
    assert float(by_hand.abs().max()) > 1e-3
    for rows in (1, 2, 3):
        again, same = full_step(context(made, grids()), batch, micro_rows=rows)
        close(again, value)
        close(same, gradient)


def test_without_discount_none_is_read() -> None:
    batch = ragged()
    loss = StandardisedAdvantages(ClippedSurrogate(0.2, 0.2), discounted=False)
    found, gradient = full_step(context(method(Term("a", loss, TokenMean())), grids()), batch)
    one = batch.with_steps({"discount": torch.ones(4, 13)})
    made = method(
        Term("a", replace(loss, discounted=True), TokenMean()), sampling=Fixed(one, ("advantage", "discount"))
    )
    expected, other = full_step(context(made, grids()), one)
    close(found, expected)
    close(gradient, other)
    assert "discount" not in loss.reads
    assert "discount" not in loss.formula


def test_random_steps_are_a_share_of_the_trained_ones_and_differ_by_round() -> None:
    batch = ragged((5, 10, 20, 1))
    ctx = context(method(), grids())
    kept = [RandomSteps(0.6)(ctx, batch).trained for _ in range(2)]
    assert [row.sum(1).tolist() for row in kept] == [[int(n * 0.6 + 1e-9) for n in batch.trained.sum(1).tolist()]] * 2
    assert not torch.equal(kept[0], kept[1])
    assert bool((batch.trained | ~kept[0]).all())
    close(RandomSteps(1.0)(ctx, batch).trained.double(), batch.trained.double())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSteps(0.0), "share"),
        (lambda: BestAndWorst(3), "even number"),
        (lambda: ClearExtremes(-1.0, 1.0), "low must not be above high"),
        (lambda: BackwardProgress(5, 3), "first <= last"),
        (lambda: ClipByNoise(0.2, 0.1), "least <= most"),
        (lambda: StandardisedAdvantages(low=0.5, high=0.5), "low < high"),
    ],
)
def test_options_out_of_range_are_refused(make, message) -> None:
    with pytest.raises(CompositionError, match=message):
        make()


def test_the_clip_range_is_constant_where_there_is_one_step() -> None:
    batch = ragged((3, 2)).with_steps({"clock_denoise": torch.tensor([[2, 2, 2], [2, 2, 2]])})
    close(ClipByNoise(0.01, 0.3, count=1, end=2)(batch), torch.full((2, 3), 0.3))
    grown = replace(ClipByNoise(0.01, 0.3), count=2, end=2)(batch)
    close(grown, torch.full((2, 3), 0.3))


def judged(shift: float = 0.0):
    """Eight rows of two groups and tasks with rewards, chains of three steps, and rewards by head."""
    batch = rewarded(ragged((3, 6, 3, 6, 6, 3, 6, 3), tools=False), [1.0, 0.0, 0.4, 3.0, -2.0, 0.7, 0.1, 0.9])
    reward = batch.step["reward"]
    reward = torch.where(batch.own & (torch.arange(6) == 0), reward + shift, reward)
    clock = torch.arange(6).remainder(3).expand(8, -1)
    return batch.with_steps({"reward": reward, "reward:reward": reward, "clock_denoise": clock})


CREDITS = (TaskStandardised(past=0), PerHead(), OverDenoising(GroupStandardised()), GoodShare())


def columns_of(part, batch):
    found = part(context(method(), grids()), batch)
    return {
        name: found.step[name] if name in found.step else found.row[name] for name in part.writes if name != "discount"
    }


@given(st.permutations(range(8)), st.floats(-5, 5), st.integers(0, 3))
@pytest.mark.parametrize("part", CREDITS, ids=lambda part: type(part).__name__)
def test_credit_ignores_the_order_of_rows_padding_and_a_constant(part, order, shift, padding) -> None:
    plain = columns_of(part, judged())
    index = torch.tensor(order)
    again = columns_of(part, widened(judged(shift)[index], padding))
    for name, column in plain.items():
        found = again[name][:, : column.shape[1]] if column.dim() > 1 else again[name]
        close(found, column[index], atol=1e-9, what=name)


@given(st.permutations(range(8)))
@pytest.mark.parametrize("part", [BestAndWorst(2), ClearExtremes(0.1, -0.1)], ids=lambda part: type(part).__name__)
def test_extremes_ignore_the_order_of_rows(part, order) -> None:
    batch = GroupStandardised()(context(method(), grids()), judged())
    first = part(None, batch).row["_row"].tolist()
    assert sorted(part(None, batch[torch.tensor(order)]).row["_row"].tolist()) == sorted(first)
    assert 0 < len(first) < 8


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_a_clamped_ratio_is_never_outside_its_range(changes) -> None:
    batch, models = ragged((1, 1, 1, 1, 1, 1), tools=False), grids()
    batch = batch.with_steps({"advantage": torch.ones(6, 1)})
    old = models["policy"].logp.detach()[:6, :1] - torch.tensor(changes)[:, None]
    seen = SeenBatch(context(method(), models), batch.with_scores({"old": Scores(old)}))
    value = -ClampedSurrogate(0.2)(seen, seen.batch).detach()
    assert float(value.min()) >= 0.8
    assert float(value.max()) <= 1.2
