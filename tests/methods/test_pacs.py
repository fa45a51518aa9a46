"""PACS: `reduces_to` of specification 28, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Term, trained_rows
from policyopt.methods import load
from policyopt.objective.implicit import ImplicitClassifier
from policyopt.seen import SeenBatch
from policyopt.update.averaging import RowMean
from support import close, context, full_step, grid, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

LABELS = [1.0, 0.0, 0.0, 1.0]
LENGTHS = (1, 2, 7, 13, 3, 5)


def six(rewards=(1.0, 0.0, 0.0, 1.0, 1.0, 0.0), groups=(7, 3, 7, 3, 7, 3)):
    return rewarded(with_row(ragged(LENGTHS), group=groups), rewards)


def step(loss, batch, models=None):
    term = Term("one", loss, RowMean(), mask=trained_rows, couples=("group",))
    return full_step(context(method(term), models or grids()), batch)


def test_at_the_old_policy_without_weights_it_is_beta_times_rloo() -> None:
    """-beta mean_i (R_i - mean of the others) grad sum_t log pi_i."""
    made = load("pacs")
    (term,) = made.objective
    for beta in (1.0, 0.3):
        plain = replace(made, objective=(replace(term, loss=ImplicitClassifier(beta, balanced=False)),))
        found = first_step(plain, {"policy": grid(0)}, ragged(), Grades(LABELS)).gradient
        rloo = replace(load("rloo"), reward=made.reward, roles=made.roles, models={})
        expected = first_step(rloo, {"policy": grid(0)}, ragged(), Grades(LABELS)).gradient
        assert float(expected.abs().max()) > 0.1
        close(found, beta * expected)


def test_without_comparison_the_first_gradient_is_half_less_the_label() -> None:
    batch = six()
    models = grids()
    models["old"] = models["policy"]
    label = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    for loss, rows in (
        (ImplicitClassifier(0.7, "none", balanced=False), batch),
        (ImplicitClassifier(0.7, balanced=False), with_row(batch, group=range(6))),  # groups of one
    ):
        _, gradient = step(loss, rows, models)
        expected = torch.where(rows.trained, 0.7 * (0.5 - label)[:, None] / 6, 0.0)
        close(gradient[:6, :13], expected)


def test_weights_balance_right_and_wrong_rows_by_hand() -> None:
    """Group of three with one right: 3 / 2 for it, 3 / 4 for the others; a group of one kind: 1."""
    batch = six((1.0, 1.0, 0.0, 1.0, 0.0, 1.0))
    close(ImplicitClassifier().weight(batch), [1.5, 1.0, 0.75, 1.0, 0.75, 1.0])
    close(ImplicitClassifier(balanced=False).weight(batch), torch.ones(6))


def test_the_weight_of_a_row_fades_as_it_is_told_apart() -> None:
    """A pair whose right row is ahead by D: both move by sigma(-D)."""
    batch = rewarded(ragged((1, 1)).with_rows({"group": torch.zeros(2, dtype=torch.int64)}), [1.0, 0.0])
    for ahead in (0.0, 1.0, 4.0):
        models = grids()
        with torch.no_grad():
            models["old"].logp.copy_(models["policy"].logp)
            models["old"].logp[0, 0] -= ahead
        _, gradient = step(ImplicitClassifier(), batch, models)
        share = torch.sigmoid(torch.tensor(-ahead))
        close(gradient[:2, 0], torch.stack([-share, share]))


def test_the_standardised_variant_is_finite_at_the_old_policy() -> None:
    """All gains equal: no spread, and no derivative of a root at 0."""
    models = grids()
    models["old"] = models["policy"]
    value, gradient = step(ImplicitClassifier(comparison="standardised"), six(), models)
    close(value, torch.log(torch.tensor(2.0)))
    assert bool(torch.isfinite(gradient).all())
    # Centred labels over the epsilon, by hand for the first group (two right, one wrong; weights 3/4, 3/2).
    slope = torch.tensor([-0.375, 0.75, -0.375])
    close(gradient[[0, 2, 4], 0] / 1e6 * 6, slope - slope.mean())


@given(st.floats(-2, 2), st.integers(0, 20))
def test_a_shift_of_all_rows_of_a_group_changes_nothing(shift: float, seed: int) -> None:
    """Gains are compared, so what all rows of a group gain alike is no evidence."""
    batch, models = six(), grids()
    before = step(ImplicitClassifier(0.5), batch, models)[0]
    with torch.no_grad():
        for b in (0, 2, 4):
            first = int(batch.trained[b].nonzero()[0])
            models["policy"].logp[b, first] += shift
    close(step(ImplicitClassifier(0.5), batch, models)[0], before)


def test_mean_error_is_watched() -> None:
    batch, models = six(), grids()
    models["old"] = models["policy"]
    ctx = context(method(Term("one", ImplicitClassifier(), RowMean(), mask=trained_rows)), models)
    close(ImplicitClassifier().watch(SeenBatch(ctx, batch), batch)["error"], torch.full((6,), 0.5))
