"""OTR: `reduces_to` of specification 202, each identity a test."""

import pytest
import torch

import cases
from policyopt.compose import CompositionError, Role, Term
from policyopt.methods import load
from policyopt.objective.one_step import DRAWN, OneStepRollout
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.seen import SeenBatch
from policyopt.types import Gaussian, Scores
from policyopt.update.averaging import TokenMean
from references_groups import REFERENCES, Chooser
from support import close, context, full_step, grid, method, numbers

pytestmark = pytest.mark.usefixtures("float64")

FULL = {"policy": Role(grad=True, full=True)}


def stepped(loss, policy=None, batch=None):
    made = method(Term("one", loss, TokenMean()), roles=FULL)
    models = {"policy": policy or Chooser(numbers(8, 104, 5))}
    return full_step(context(made, models), cases.rich() if batch is None else batch)


@pytest.mark.parametrize(("heat", "wrong"), [(1.0, -0.1), (1.4, -0.5), (0.7, 0.0)])
def test_the_expected_loss_equals_the_loops(heat: float, wrong: float) -> None:
    batch, policy = cases.rich(), Chooser(numbers(8, 104, 5))
    value, gradient = stepped(OneStepRollout(None, heat, wrong), policy, batch)
    total, slope, count = 0.0, torch.zeros_like(gradient), int(batch.trained.sum())
    for b, t in batch.trained.nonzero().tolist():
        logits = policy.logits.detach()[b, t]
        shares = (logits / heat).softmax(-1).tolist()
        one, by_logits = REFERENCES[OneStepRollout](logits.tolist(), int(batch.step["_step"][b, t]), shares, wrong)
        total += one / count
        slope[b, t] = torch.tensor(by_logits) / count
    close(value, total)
    close(gradient, slope)


def test_without_punishment_it_is_sft_weighted_by_the_probability() -> None:
    """kappa = 1, b = 0: sg(pi(y_t)) times the gradient of cross-entropy."""
    batch, policy = cases.rich(), Chooser(numbers(8, 104, 5))
    _, gradient = stepped(OneStepRollout(None, wrong=0.0), policy, batch)
    _, plain = stepped(NegativeLogLikelihood(), policy, batch)
    chance = policy.logits.detach().softmax(-1)[:4, :13].gather(-1, batch.step["_step"][..., None])
    close(gradient[:4, :13], torch.where(batch.trained[..., None], chance * plain[:4, :13], 0.0))


def test_a_constant_reward_changes_nothing_in_expectation() -> None:
    """At kappa = 1 the score function has mean 0: R and R + 0.3 have gradients in the proportion of their spread."""
    one, two = (stepped(OneStepRollout(None, wrong=wrong))[1] for wrong in (-0.1, 0.4))
    close(one / 1.1, two / 0.6)


def test_draws_are_unbiased_and_made_once_for_a_step() -> None:
    batch, policy = cases.rich(), Chooser(numbers(8, 104, 5))
    exact = stepped(OneStepRollout(None), policy, batch)[1]
    found = stepped(OneStepRollout(20000), policy, batch)[1]
    close(found, exact, 2e-3)
    loss = OneStepRollout(4)
    ctx = context(method(Term("one", loss, TokenMean()), roles=FULL), {"policy": policy})
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    drawn = planned.step[DRAWN]
    assert drawn.shape == (4, 13, 4)
    assert len(drawn[batch.trained].unique()) == 5
    # By hand from the draws: a mean over them, then over the trained steps.
    logp = policy.logits.detach()[:4, :13].log_softmax(-1).gather(-1, drawn)
    reward = torch.where(drawn == batch.step["_step"][..., None], 1.0, -0.1)
    value = full_step(context(method(Term("one", loss, TokenMean()), roles=FULL), {"policy": policy}), batch)[0]
    close(value, -(reward * logp).mean(-1)[batch.trained].mean())
    small = full_step(context(method(Term("one", loss, TokenMean()), roles=FULL), {"policy": policy}), batch, 1)
    close(small[0], value)


def test_a_choice_that_is_never_drawn_gives_no_signal() -> None:
    """A demonstrated choice of probability e^-30 moves nothing; sft moves it most."""
    logits = numbers(8, 104, 5)
    batch = cases.rich()
    logits[:4, :13] -= 30.0 * torch.nn.functional.one_hot(batch.step["_step"], 5)
    unlikely = stepped(OneStepRollout(64, wrong=0.0), Chooser(logits), batch)[1]
    close(unlikely, torch.zeros_like(unlikely))
    assert float(stepped(NegativeLogLikelihood(), Chooser(logits), batch)[1].abs().max()) > 0.05


def test_steps_that_are_numbers_and_options_out_of_range_are_refused() -> None:
    class Normal(Chooser):
        def score(self, batch, context=None, *, full=False):
            dist = Gaussian(self.logits[:4, :13], torch.ones(4, 13, 5))
            return Scores(self.logits[:4, :13, 0], None, dist)

    with pytest.raises(CompositionError, match="must be choices"):
        stepped(OneStepRollout(), Normal(numbers(8, 104, 5)))
    with pytest.raises(CompositionError, match="full=True"):
        full_step(context(method(Term("one", OneStepRollout(), TokenMean())), {"policy": grid(0)}), cases.rich())
    for options in ({"count": 0}, {"temperature": 0.0}):
        with pytest.raises(CompositionError):
            OneStepRollout(**options)
    assert load("otr").objective[0].loss == OneStepRollout()
