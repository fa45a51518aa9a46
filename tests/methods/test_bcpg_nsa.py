"""BCPG-NSA: `reduces_to` of specification 82, each identity a test."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.compose import CompositionError, Term
from policyopt.evaluation.experiments.episodes import recorded_chains
from policyopt.feedback.steps import AgreedSteps
from policyopt.methods import load
from policyopt.objective.offline import BehaviourConstrained
from policyopt.options import override
from policyopt.update.averaging import SequenceSum
from references_turns import behaviour_constrained
from support import Columns, close, context, full_step, grids, method, numbers, per_row, ragged

pytestmark = pytest.mark.usefixtures("float64")


def rows(seed=0):
    batch = ragged(seed=seed)
    good = (numbers(4, 13, seed=seed + 20) > 0).double()
    return per_row(batch, numbers(4, seed=seed + 30)).with_steps({"good": good})


def stepped(part, batch, micro=None):
    made = method(Term("a", part, SequenceSum()), sampling=Columns(), feedback=AgreedSteps())
    return full_step(context(made, grids()), batch, micro)


@settings(max_examples=12)
@given(st.integers(0, 60), st.sampled_from([(0.3, -0.5), (0.0, 0.5), (0.5, 1.0)]))
def test_value_and_gradient_are_those_of_the_loops(seed: int, options: tuple) -> None:
    tau, weight = options
    batch, logp = rows(seed), grids()["policy"].logp.detach()
    value, slope = 0.0, torch.zeros(8, 104)
    for b in range(4):
        steps = batch.trained[b].nonzero()[:, 0].tolist()
        columns = (logp[b, steps], batch.step["behaviour"][b, steps], batch.step["good"][b, steps] > 0)
        found = behaviour_constrained(*(c.tolist() for c in columns), float(batch.step["advantage"][b, 0]), tau, weight)
        for t, (one, by) in zip(steps, found, strict=True):
            value, slope[b, t] = value + one / 4, by / 4
    for micro in (None, 3):
        loss, gradient = stepped(BehaviourConstrained(tau, weight), batch, micro)
        close(loss, value, 1e-10)
        close(gradient, slope, 1e-10)
    assert float(slope.abs().max()) > 1e-3


def test_rows_of_unknown_authors_are_refused_unless_nobody_asks_for_the_distance() -> None:
    batch = rows()
    batch = batch.with_steps({"behaviour": torch.full_like(batch.step["behaviour"], torch.nan)})
    with pytest.raises(CompositionError, match="set tau=0"):
        stepped(BehaviourConstrained(), batch)
    loss, gradient = stepped(BehaviourConstrained(tau=0.0), batch)
    assert bool(loss.isfinite())
    assert 1e-3 < float(gradient.abs().max()) < 1e3


def test_weight_one_is_the_plain_gradient() -> None:
    batch = rows()
    every = batch.with_steps({"good": torch.ones(4, 13)})
    none = batch.with_steps({"good": torch.zeros(4, 13)})
    plain = stepped(BehaviourConstrained(), none)
    for one, other in zip(stepped(BehaviourConstrained(good=1.0), every), plain, strict=True):
        close(one, other)
    assert float((stepped(BehaviourConstrained(), every)[1] - plain[1]).abs().max()) > 0.01


def test_without_tau_the_gradient_of_every_log_probability_is_minus_w_a_over_the_rows() -> None:
    batch = rows()
    gradient = stepped(BehaviourConstrained(tau=0.0, good=-0.5), batch)[1][:4, :13]
    a = batch.step["advantage"]
    w = torch.where((a < 0) & (batch.step["good"] > 0), -0.5, 1.0)
    close(gradient, torch.where(batch.trained, -w * a / 4, 0.0))


def test_only_rows_above_zero_are_weighted_cloning() -> None:
    """With rows below 0 left out: likelihood, weighted by 1 - mean R."""
    batch = per_row(rows(), [0.75, -0.25, 0.75, -0.25])[torch.tensor([0, 2])]
    value, _ = stepped(BehaviourConstrained(tau=0.0), batch)
    logp = torch.where(batch.trained, grids()["policy"].logp.detach()[[0, 2], :13], 0.0)
    close(value, -0.75 * logp.sum() / 2)


def test_the_charge_is_on_the_whole_row_and_has_no_gradient_of_its_own() -> None:
    """A row of advantage 0 whose policy has left mu: A = -tau (log pi - log mu)."""
    batch = per_row(rows(), [0.0] * 4).with_steps({"good": torch.zeros(4, 13)})
    gradient = stepped(BehaviourConstrained(tau=0.1), batch)[1][:4, :13]
    logp = grids()["policy"].logp.detach()[:4, :13]
    drift = torch.where(batch.trained, logp - batch.step["behaviour"], 0.0).sum(1, keepdim=True)
    close(gradient, torch.where(batch.trained, 0.1 * drift / 4, 0.0))


def test_both_judges_must_agree() -> None:
    said = {"one": numbers(4, 13, seed=1), "two": numbers(4, 13, seed=2)}
    said["one"][0, 0] = torch.nan
    world = SimpleNamespace(**{name: lambda batch, x=x: x for name, x in said.items()})
    batch = ragged()
    found = AgreedSteps(("one", "two"), 0.2)(context(method(), grids(), world), batch).step["good"]
    both = (said["one"] >= 0.2) & (said["two"] >= 0.2) & batch.own
    assert torch.equal(found > 0, both)
    assert 0 < int(both.sum()) < int(((said["one"] >= 0.2) & batch.own).sum())


def test_refusals_and_settings() -> None:
    for broken in ({"tau": -1.0}, {"good": 1.5}):
        with pytest.raises(CompositionError):
            BehaviourConstrained(**broken)
    with pytest.raises(CompositionError, match="one judge"):
        AgreedSteps(())
    with pytest.raises(CompositionError, match="judge_steps"):
        AgreedSteps()(context(method(), grids(), SimpleNamespace()), ragged())
    made = load("bcpg_nsa")
    assert made.objective[0].loss == BehaviourConstrained(0.001, 0.5)
    assert (made.update.epochs, made.selection.count) == (8, 512)
    assert len(set(made.feedback.judges)) == 2


def test_the_experiment_learns_from_recorded_rows() -> None:
    made = override(load("bcpg_nsa"), {"selection.count": 8, "update.epochs": 1, "update.learning_rate": 0.1})
    done = recorded_chains(made, 1_000_001, 5)
    assert done.rows == 5 * 128
    assert done.value > 0.06
