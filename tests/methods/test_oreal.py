"""OREAL: `reduces_to` of specification 170, each identity a test."""

from dataclasses import replace

import pytest
import torch

import references_critics as loops
from enumeration import Grades, first_step
from policyopt.compose import Chain, Term, trained_rows
from policyopt.credit.groups import LeaveOneOut
from policyopt.credit.history import SignWeighted
from policyopt.credit.tokens import ByTokenModel
from policyopt.methods import load
from policyopt.objective.successors import RowClassifier
from policyopt.selection.contrast import OneOfEach
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from support import Grid, close, context, full_step, grid, grids, method, numbers, per_row, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [1.0, 1.0, 0.0, 0.0]


def oreal(**changes):
    return replace(load("oreal"), selection=Selection(4), **changes)


def models(values=None):
    held = numbers(8, 105, seed=3) if values is None else values
    return {**grids(), "tokens": Grid(values=held)}


def test_the_classifier_equals_the_loops() -> None:
    batch = rewarded(ragged(), [1.0, 0.0, 1.0, 0.0])
    made = method(Term("a", RowClassifier("critic"), RowMean(), mask=trained_rows, trains="critic"))
    ctx = context(made, grids())
    loss, slope = full_step(ctx, batch, model="critic")
    values = grids()["critic"].values.detach()[:4, :14].tolist()
    expected, slopes = loops.classifier(values, batch.trained.tolist(), [1.0, 0.0, 1.0, 0.0], [0.25] * 4)
    close(loss, sum(expected) / 4)
    close(slope[:4, :14], slopes)
    close(full_step(context(made, grids()), batch, 1, "critic")[0], loss)


def test_without_weights_wrong_rows_and_divergence_it_imitates_right_answers() -> None:
    """om = 1, eta = 0, beta = 0: A grad log pi of right rows; of a group with one right row A is 1."""
    made = oreal(credit=Chain((LeaveOneOut(), SignWeighted(1.0, 0.0))), constraint=())
    batch = with_row(ragged(), group=[0, 1, 1, 0])
    found = first_step(made, models(), batch, Grades([1.0, 1.0, 0.0, 0.0])).gradient
    count = int(batch.trained.sum())
    expected = torch.where(batch.trained & torch.tensor([1, 1, 0, 0])[:, None].bool(), -1.0 / count, 0.0)
    close(found[:4, :13], expected)


def test_at_the_beginning_only_the_divergence_is_left() -> None:
    """w = 0: both weights are exactly 0, the divergence is from the initial policy."""
    batch, base = with_row(ragged(), group=[0, 0, 1, 1]), load("oreal")
    done = first_step(oreal(), models(torch.zeros(8, 105)), batch, Grades([1.0, 0.0, 1.0, 0.0]))
    alone = oreal(objective=tuple(term for term in base.objective if term.name == "tokens"))
    close(done.gradient, first_step(alone, models(), batch, Grades([1.0, 0.0, 1.0, 0.0])).gradient)
    assert float(done.gradient.abs().max()) > 1e-5
    tokens = first_step(
        oreal(), models(torch.zeros(8, 105)), batch, Grades([1.0, 0.0, 1.0, 0.0]), model="tokens", table="values"
    )
    assert float(tokens.gradient.abs().max()) > 1e-3


def test_right_rows_learn_where_praised_and_wrong_ones_where_blamed() -> None:
    batch = with_row(ragged(), group=[0, 0, 1, 1])
    done = first_step(oreal(), models(), batch, Grades([1.0, 0.0, 1.0, 0.0])).round.credited
    w = numbers(8, 105, seed=3)[:4, 1:14]
    praise = 2 * w.sigmoid() - 1
    right, wrong = praise.clamp(min=0), -0.5 * (-praise).clamp(min=0)
    expected = torch.where(torch.tensor([1, 0, 1, 0])[:, None].bool(), right, wrong)
    close(done.step["advantage"], torch.where(batch.own, expected, 0.0))
    assert float((right * wrong).abs().max()) == 0.0


def test_the_gradient_of_the_policy_is_that_of_the_weighted_likelihood() -> None:
    batch = with_row(ragged(), group=[0, 0, 1, 1])
    done = first_step(oreal(constraint=()), models(), batch, Grades([1.0, 0.0, 1.0, 0.0]))
    advantage = done.round.kept.step["advantage"]
    close(done.gradient[:4, :13], torch.where(batch.trained, -advantage / batch.trained.sum(), 0.0))


def test_best_of_n_of_a_binary_outcome() -> None:
    """pi_BoN = pi (R (1 - (1 - p)^N) / p + (1 - R) (1 - p)^(N - 1)), enumerated for N = 3."""
    p = numbers(4, seed=1).softmax(-1)
    right = torch.tensor([1.0, 0.0, 0.0, 1.0])
    share = float((p * right).sum())
    total = torch.zeros(4)
    for draws in torch.cartesian_prod(*[torch.arange(4)] * 3):
        good = [int(d) for d in draws if right[d] > 0] or [int(d) for d in draws]
        for d in good:
            total[d] += float(p[draws].prod()) / len(good)
    expected = p * (right * (1 - (1 - share) ** 3) / share + (1 - right) * (1 - share) ** 2)
    close(total, expected)


def test_one_right_and_one_wrong_row_of_tasks_that_are_solved_sometimes() -> None:
    batch = rewarded(ragged((2,) * 8), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    batch = with_row(batch, group=[0, 0, 0, 0, 1, 1, 2, 3])
    ctx, seen = context(method(), {"policy": grid(0)}), set()
    for _ in range(20):
        rows = OneOfEach()(ctx, batch).row["_row"].tolist()
        assert len(rows) == 2
        assert rows[0] in (0, 2) or rows[1] in (0, 2)
        seen.update(rows)
    assert seen == {0, 1, 2, 3}
    assert len(OneOfEach(most=0.5)(ctx, batch)) == 0
    assert len(OneOfEach()(ctx, with_row(batch, scored=[True, False, True, False] + [True] * 4))) == 0


def test_the_token_model_reads_the_state_after_each_step() -> None:
    batch = per_row(ragged((2,), tools=False), [1.0])
    values = torch.zeros(8, 105)
    values[0, :3] = torch.tensor([9.0, 1.0, -1.0])
    found = ByTokenModel("critic")(context(method(), {**grids(), "critic": Grid(values=values)}), batch)
    close(found.step["advantage"], [[float(torch.tanh(torch.tensor(0.5))), 0.0]])


def test_the_released_weights_are_of_the_mean_so_far() -> None:
    """Logits 2 and -1 behind the steps: means 2 and 0.5, so that the second step is praised as well."""
    batch = per_row(ragged((2,), tools=False), [1.0])
    values = torch.zeros(8, 105)
    values[0, :3] = torch.tensor([9.0, 2.0, -1.0])
    ctx = context(method(), {**grids(), "critic": Grid(values=values)})
    found = ByTokenModel("critic", running=True)(ctx, batch)
    close(found.step["advantage"], torch.tensor([[1.0, 0.25]]).tanh())
