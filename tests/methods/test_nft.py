"""NFT: `reduces_to` of specification 44, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Term, trained_rows
from policyopt.credit.groups import GroupCentred, GroupStandardised
from policyopt.methods import load
from policyopt.objective.implicit_negative import ImplicitNegative, SequenceImplicitNegative, raised
from policyopt.update.averaging import RowMean, SequenceSum
from support import close, context, full_step, grid, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

RIGHT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
GROUPS = (7, 3, 7, 3, 7, 3)
LENGTHS = (1, 2, 7, 13, 3, 5)


def six(rewards=RIGHT):
    return rewarded(with_row(ragged(LENGTHS), group=GROUPS), rewards)


def stepped(loss, batch, models=None):
    rows = isinstance(loss, SequenceImplicitNegative)
    term = Term("one", loss, RowMean(), mask=trained_rows) if rows else Term("one", loss, SequenceSum())
    return full_step(context(method(term), models or grids()), batch)


@pytest.mark.parametrize(
    ("weighting", "credit"), [("root", GroupStandardised(epsilon=0.0, ddof=0)), ("linear", GroupCentred())]
)
def test_on_policy_it_is_grpo_or_dr_grpo(weighting: str, credit) -> None:
    """w = sqrt((1 - q) / q): the standardised advantage with population deviation; w = 1 - q: the centred one."""
    made, batch = load("nft"), with_row(ragged(LENGTHS), group=GROUPS)
    loss = ImplicitNegative(weighting)
    nft = replace(made, objective=(replace(made.objective[0], loss=loss, average=SequenceSum()),))
    plain = load("dr_grpo")
    other = replace(plain, credit=credit, objective=(replace(plain.objective[0], average=SequenceSum()),))
    found = first_step(nft, {"policy": grid(0)}, batch, Grades(RIGHT)).gradient
    expected = first_step(other, {"policy": grid(0)}, batch, Grades(RIGHT)).gradient
    assert float(expected.abs().max()) > 0.1
    close(found, expected)


def test_without_wrong_rows_it_is_rejection_fine_tuning() -> None:
    """-(1 - q) grad log pi on right rows, for any policy: the ratio's logarithm has the gradient of the likelihood."""
    batch = six()
    _, gradient = stepped(ImplicitNegative(negative=0.0), batch)
    q, right = torch.tensor([2 / 3, 1 / 3] * 3), torch.tensor(RIGHT)
    expected = -(1 - q) * right / 6
    close(gradient[:6, :13], torch.where(batch.trained, expected[:, None], 0.0))


def test_wrong_rows_off_policy_by_hand() -> None:
    """q = 1/2, r = 1.2: (1 - 0.6) / 0.5 = 0.8 is below the floor of 1, so value 0 and gradient q r / (1 - q) = 1.2
    over the floor; r = 0.5: 1.5, value -log 1.5, gradient 0.5 / 1.5. Times w = 1/2."""
    batch = rewarded(with_row(ragged((1, 1, 1, 1)), group=(1, 1, 2, 2)), [1.0, 0.0, 1.0, 0.0])
    models = grids()
    with torch.no_grad():
        models["old"].logp.copy_(models["policy"].logp)
        models["old"].logp[1, 0] -= math.log(1.2)
        models["old"].logp[3, 0] -= math.log(0.5)
    value, gradient = stepped(ImplicitNegative(), batch, models)
    close(value, -0.5 * math.log(1.5) / 4)
    close(gradient[:4, 0], torch.tensor([-0.5, 0.5 * 1.2, -0.5, 0.5 * 0.5 / 1.5]) / 4)


@given(st.floats(-3, 3), st.floats(0.1, 2.0))
def test_the_floor_keeps_the_value_not_the_gradient(x: float, floor: float) -> None:
    leaf = torch.tensor(x, requires_grad=True)
    out = raised(leaf, floor)
    (slope,) = torch.autograd.grad(out, leaf)
    close(out, max(x, floor), 1e-12)
    close(slope, 1.0)


def test_the_sequence_form_of_one_step_is_the_step_form() -> None:
    batch = rewarded(with_row(ragged((1,) * 6), group=GROUPS), RIGHT)
    step, row = stepped(ImplicitNegative(), batch), stepped(SequenceImplicitNegative(), batch)
    close(row[0], step[0])
    close(row[1], step[1])


def test_groups_of_one_kind_are_dropped_and_shares_are_clamped() -> None:
    made = load("nft")
    batch = with_row(ragged(), group=(1, 1, 2, 2))
    done = first_step(made, {"policy": grid(0)}, batch, Grades([1.0, 1.0, 1.0, 0.0]))
    assert done.round.kept.row["_row"].tolist() == [2, 3]
    close(done.gradient[:2], torch.zeros_like(done.gradient[:2]))
    # Kept by hand, such a group has q = 0.98.
    _, gradient = stepped(ImplicitNegative(), rewarded(batch, [1.0, 1.0, 1.0, 1.0]))
    close(gradient[0, 0], -0.02 / 4)


def test_options_out_of_range_are_refused() -> None:
    for options in ({"weighting": "cubic"}, {"negative": -1.0}, {"floor_wrong": 0.0}, {"least": 0.0}):
        with pytest.raises(CompositionError):
            ImplicitNegative(**options)
