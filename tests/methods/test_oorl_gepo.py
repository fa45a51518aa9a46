"""GEPO: `reduces_to` of specification 66, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Role, Term, trained_rows
from policyopt.credit.given import OfOwnRows, WhitenedAdvantage
from policyopt.credit.groups import GroupStandardised, LeaveOneOut
from policyopt.methods import load
from policyopt.objective.implicit import EquivalentPreference
from policyopt.objective.preference import PairLogistic
from policyopt.ops.masked import whiten
from policyopt.reward.parts import ReferencePenalty
from policyopt.types import Source
from policyopt.update.averaging import RowMean
from policyopt.update.grouped import GroupMean
from support import NAN, close, context, full_step, grid, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GIVEN = int(Source.DATASET)
RIGHT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def six():
    return rewarded(with_row(ragged((1, 2, 7, 13, 3, 5)), group=(1, 2) * 3), RIGHT)


def stepped(loss, batch, models=None):
    term = Term("a", loss, GroupMean(), mask=trained_rows, couples=("group",))
    return full_step(context(method(term), models or grids()), batch)


def rho(batch, models):
    gap = (models["policy"].logp - models["reference"].logp)[: len(batch), : batch.steps]
    return torch.where(batch.trained, gap, 0.0).sum(1).detach()


def test_of_one_winner_and_one_loser_it_is_dpo() -> None:
    batch = rewarded(with_row(ragged(), group=(1, 2, 1, 2)), [1.0, 0.0, 0.0, 1.0])
    batch = with_row(batch, pair=(0, 1, 0, 1), rank=(0, 1, 1, 0))
    dpo = replace(load("dpo").objective[0], loss=PairLogistic(0.7), average=RowMean())
    expected = full_step(context(method(dpo), grids()), batch)
    for spread in (0.0, 5.0):
        found = stepped(EquivalentPreference(beta=0.7, spread=spread), batch)
        close(found[0], expected[0])
        close(found[1], expected[1])


def test_without_the_variance_it_is_dpo_on_group_means_by_hand() -> None:
    """Group 1: rows 0, 4 right, 2 wrong; group 2: row 3 right, 1 and 5 wrong."""
    batch, models = six(), grids()
    d = rho(batch, models)
    margins = 0.4 * torch.stack([d[[0, 4]].mean() - d[2], d[3] - d[[1, 5]].mean()])
    plain = -torch.nn.functional.logsigmoid(margins)
    close(stepped(EquivalentPreference(beta=0.4, spread=0.0), batch, models)[0], plain.mean())
    variance = torch.stack([d[[0, 4]].var(correction=0), torch.tensor(0.0)])
    value, gradient = stepped(EquivalentPreference(beta=0.4, spread=2.0), batch, models)
    close(value, (plain + 2 * variance).mean())
    pull = -0.4 * torch.sigmoid(-margins) / 2
    centre = d[[0, 4]].mean()
    for row, slope in ((0, pull[0] / 2 + 2 * 2 * (d[0] - centre) / 2 / 2), (2, -pull[0]), (1, -pull[1] / 2)):
        close(gradient[row, :13], torch.where(batch.trained[row], slope, 0.0))


@given(st.floats(-3, 3))
def test_a_constant_of_the_group_changes_nothing(shift: float) -> None:
    batch, models = six(), grids()
    before = stepped(EquivalentPreference(), batch, models)[0]
    with torch.no_grad():
        for b in (0, 2, 4):
            models["policy"].logp[b, int(batch.trained[b].nonzero()[0])] += shift
    close(stepped(EquivalentPreference(), batch, models)[0], before, 1e-10)


def test_without_the_preference_it_is_the_on_policy_method() -> None:
    """Own rows with REINFORCE++ advantages; recorded rows have no part in them, and no distance is charged on them."""
    batch = with_row(ragged((1, 2, 7, 13, 3, 5)), group=(1, 2, 3, 4, -1, -1), source=[0] * 4 + [GIVEN] * 2)
    behaviour = batch.step["behaviour"].clone()
    behaviour[4:] = NAN
    batch = batch.with_steps({"behaviour": behaviour})
    made = load("oorl_gepo")
    policy, preference = made.objective
    alone = replace(made, objective=(policy, replace(preference, weight=0.0)))
    models = {"policy": grid(0), "reference": grid(3)}
    done = first_step(alone, models, batch, Grades([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]))
    own = batch[torch.arange(4)]
    plain = replace(made, objective=(policy,), credit=made.credit.inner)
    expected = first_step(plain, {"policy": grid(0), "reference": grid(3)}, own, Grades([1.0, 0.0, 0.0, 1.0]))
    assert float(expected.gradient.abs().max()) > 1e-2
    close(done.gradient, expected.gradient)
    both = first_step(made, {"policy": grid(0), "reference": grid(3)}, batch, Grades([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]))
    assert float((both.gradient - done.gradient)[4:6].abs().max()) > 0
    close((both.gradient - done.gradient)[:4], torch.zeros(4, both.gradient.shape[1]))


def test_rows_that_nobody_sampled_are_not_charged() -> None:
    batch = ragged().with_steps({"behaviour": torch.full((4, 13), NAN)})
    ctx = context(method(roles={"reference": Role("reference")}), grids())
    close(ReferencePenalty(0.5)(ctx, batch).step["reward"], batch.step["reward"])


def test_credit_of_own_rows_does_not_see_the_others() -> None:
    batch = rewarded(with_row(ragged((1, 2, 3, 2, 1)), group=(1,) * 5, source=(0, 0, 0, GIVEN, 2)), [1, 0, 0.5, 9, 7])
    ctx = context(method(), grids())
    for inner in (GroupStandardised(), LeaveOneOut()):
        found = OfOwnRows(inner, given=2.0)(ctx, batch)
        close(found.step["advantage"][:3], inner(ctx, batch[torch.arange(3)]).step["advantage"])
        close(found.step["advantage"][3:, 0], [2.0, 2.0])
        assert found.row["scored"].all()


def test_whitening_is_over_the_scored_own_steps_of_the_round() -> None:
    batch = with_row(ragged(), scored=(1, 1, 0, 1))
    found = WhitenedAdvantage()(context(method(), grids()), batch).step["advantage"]
    counted = batch.own & batch.row["scored"][:, None]
    close(found, whiten(batch.step["advantage"], counted))
    close(found[counted].mean(), 0.0)
    close(found[counted].std(), 1.0, 1e-6)
