"""APA: `reduces_to` of specification 135, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import choices_of, first_step
from policyopt.compose import CompositionError, Role, Term
from policyopt.methods import load
from policyopt.objective.anchored import AdvantageAlignment
from policyopt.objective.surrogates import PolicyGradient
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import bandit
from support import close, context, full_step, grid, grids, method, numbers, per_row, ragged

pytestmark = pytest.mark.usefixtures("float64")


def stepped(loss, batch, models=None):
    return full_step(context(method(Term("one", loss, TokenMean())), models or grids()), batch)


def test_at_the_first_policy_it_is_the_policy_gradient_up_to_a_scale() -> None:
    """-(2 / lambda) mean A grad log pi."""
    models, batch = grids(), ragged()
    models["reference"] = models["policy"]
    _, plain = stepped(PolicyGradient(), batch)
    for temperature in (0.1, 2.0):
        close(stepped(AdvantageAlignment(temperature), batch, models)[1], 2 / temperature * plain)


def test_without_advantages_it_is_a_pull_to_the_first_policy() -> None:
    """Squared log-ratio, for any lambda."""
    models, batch = grids(), per_row(ragged(), [0.0] * 4)
    gap = torch.where(batch.trained, (models["policy"].logp - models["reference"].logp)[:4, :13], 0.0).detach()
    value, gradient = stepped(AdvantageAlignment(0.3), batch, models)
    close(value, (gap**2).sum() / batch.trained.sum())
    close(gradient[:4, :13], 2 * gap / batch.trained.sum())


@given(st.integers(0, 30), st.sampled_from([0.5, 2.0]))
def test_a_normalised_tilt_is_the_minimum_whoever_sampled(seed: int, temperature: float) -> None:
    """init exp(A / lambda) with sum 1: no loss there, on every choice once."""
    start, tilt = numbers(5, seed=seed), numbers(5, seed=seed + 1)
    first = start.log_softmax(-1)
    best = (first + tilt).log_softmax(-1)
    advantage = temperature * (best - first)  # normalised by construction
    rows = choices_of(bandit(torch.zeros(1, 5)), 5).with_steps({"advantage": advantage[:, None]})
    made = method(Term("one", AdvantageAlignment(temperature), TokenMean()), roles={"reference": Role("reference")})
    for logits, there in ((best, True), (start, False)):
        models = {"policy": Table(logits[None]), "reference": Table(start[None])}
        value, gradient = full_step(context(made, models), rows)
        assert (float(value) < 1e-20) == there
        assert (float(gradient.abs().max()) < 1e-9) == there


def test_the_method_sums_the_regression_and_a_value_error_on_whitened_advantages() -> None:
    batch = ragged()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    made = replace(load("apa"), reward=FromWorld())
    models = {"policy": grid(0), "critic": grid(4)}
    done = first_step(made, models, batch)
    advantage = done.round.credited.step["advantage"]
    close(advantage[batch.own].mean(), 0.0)
    close(advantage[batch.own].std(), 1.0, 1e-6)
    expected = torch.where(batch.trained, -2 / 0.1 * advantage / batch.trained.sum(), 0.0)
    assert float(expected.abs().max()) > 0.1
    close(done.gradient[:4, :13], expected)
    value = first_step(made, {"policy": grid(0), "critic": grid(4)}, batch, model="critic", table="values")
    assert float(value.gradient.abs().max()) > 1e-3


def test_nothing_is_charged_in_the_reward_and_options_are_checked() -> None:
    made = load("apa")
    assert not made.constraint
    assert not made.reward.penalises
    with pytest.raises(CompositionError, match="above 0"):
        AdvantageAlignment(0.0)
