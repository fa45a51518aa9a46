"""Nash-MD: `reduces_to` of specification 230, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from asked import resumed
from contests import BIASED, FIRST, Contest, answers, chances, every_pair, table
from enumeration import first_step
from policyopt.compose import CompositionError, Copy, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.games import exploitability, regularised_equilibrium
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.blended import Blended, Mixture, geometric
from policyopt.policies.tabular import Table
from policyopt.reward.wins import WinRate
from policyopt.run import Run
from policyopt.sampling.opponents import RECORDED, GroupAgainst
from policyopt.train import rounds
from policyopt.types import Categorical, Gaussian
from support import close, context, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")

TAU = 0.1


def test_gradient_by_hand() -> None:
    """-(p - 1/2) + tau (log pi_t - log mu_t) on every own step, mean over own rows; opponents have none."""
    opponent = torch.tensor([False, False, True, True])
    batch = ragged().with_rows({"opponent": opponent})
    batch = batch.with_steps({"train": batch.step["train"] & ~opponent[:, None]})
    models, wins = grids(), chances(4, 1)
    gap = (models["policy"].logp - models["reference"].logp)[:4, :13].detach()
    found = first_step(load("nash_md"), models, batch, Contest(wins))
    p = torch.tensor([wins[0, 2], wins[1, 3], 0.5, 0.5])
    expected = torch.where(batch.trained, -(p - 0.5)[:, None] + TAU * gap, 0.0) / 2
    assert float(expected.abs().max()) > 0.01
    close(found.gradient[:4, :13], expected)


def test_expected_gradient_is_that_of_the_regularised_preference() -> None:
    """Of P(pi > mixture) - tau KL(pi || mu) with the mixture held, summed over every pair of answers (one step, where
    the product per step and the exact penalty agree)."""
    policy = numbers(3, seed=1).softmax(-1)
    mixed = (0.5 * policy.log() + 0.5 * FIRST.log()).softmax(-1)
    batch = every_pair(BIASED)
    batch = batch.with_rows({"opponent": batch.row["rank"] == 1})
    batch = batch.with_steps({"train": batch.step["train"] & (batch.row["rank"] == 0)[:, None]})
    answer = batch.step["_step"][:, 0].view(-1, 2)
    chance = (policy[answer[:, 0]] * mixed[answer[:, 1]]).repeat_interleave(2) * len(answer)
    made = load("nash_md")
    weight = lambda seen, part: chance[part.row["_row"]][:, None]  # noqa: E731
    made = replace(
        made,
        objective=tuple(replace(t, weight=weight) for t in made.objective),
        constraint=tuple(replace(t, weight=lambda seen, part: TAU * weight(seen, part)) for t in made.constraint),
    )
    models = {"policy": table(policy), "reference": table(FIRST), "mixture": table(mixed)}
    found = first_step(made, models, batch, answers(BIASED)).gradient
    logits = policy.log().requires_grad_(True)
    p = logits.softmax(-1)
    value = p @ BIASED @ mixed - TAU * (p * (p.log() - FIRST.log())).sum()
    close(found[0], -torch.autograd.grad(value, logits)[0])


def test_tabular_steps_stop_near_the_regularised_equilibrium() -> None:
    """At a constant step the last iterate stops at a distance that grows with the step; self-play goes on cycling."""
    tau, goal = 0.05, regularised_equilibrium(BIASED, FIRST, 0.05)
    distances = []
    for eta in (0.1, 0.5):
        policy = FIRST.clone()
        for _ in range(4000):
            mixed = ((1 - eta * tau) * policy.log() + eta * tau * FIRST.log()).softmax(-1)
            before, policy = policy, (mixed.log() + eta * (BIASED @ mixed)).softmax(-1)
        assert float((policy - before).abs().max()) < 1e-10
        distances.append(float(0.5 * (policy - goal).abs().sum()))
    assert distances == pytest.approx([0.0011, 0.0057], abs=1e-4)
    policy, average = FIRST.clone(), torch.zeros(3)
    for _ in range(4000):
        policy = (policy.log() + 0.1 * (BIASED @ policy)).softmax(-1)
        average += policy / 4000
    assert float(exploitability(BIASED, policy)) > 0.15
    assert float(exploitability(BIASED, average)) < 0.01


def test_mixtures_by_hand() -> None:
    first, second = Categorical.of(numbers(2, 4)), Categorical.of(numbers(2, 4, seed=1))
    close(geometric(first, second, 0.0).logp, first.logp)
    close(geometric(first, second, 1.0).logp, second.logp)
    mixed = first.logp.exp() ** 0.7 * second.logp.exp() ** 0.3
    close(geometric(first, second, 0.3).logp.exp(), mixed / mixed.sum(-1, keepdim=True))
    normal = Gaussian(numbers(3), numbers(3, seed=1).exp()), Gaussian(numbers(3, seed=2), numbers(3, seed=3).exp())
    points = numbers(50, 3, seed=4)
    both = 0.7 * normal[0].log_prob(points) + 0.3 * normal[1].log_prob(points)
    gap = geometric(*normal, 0.3).log_prob(points) - both
    close(gap, gap[:1].expand(50))
    with pytest.raises(CompositionError, match="mixtures"):
        geometric(first, normal[0], 0.5)
    with pytest.raises(CompositionError, match="share of the mixture"):
        Mixture(share=1.5).build(SimpleNamespace(models={"policy": None, "reference": None}), "mixture")


def test_a_mixture_scores_what_it_samples_and_owns_nothing() -> None:
    policy, reference = Table(numbers(2, 3)), Table(numbers(2, 3, seed=5))
    mixture = Blended(policy, reference, 0.4)
    assert not list(mixture.parameters())
    world = answers(BIASED, 2)
    rows = world.complete(world.tasks(torch.tensor([0, 1, 1])), torch.tensor([[0], [2], [1]]))
    rows = rows.with_rows({"_state": rows.step["_state"][:, 0]})
    scored = mixture.score(rows, full=True)
    close(scored.logp[:, 0], mixture.next(rows).log_prob(rows.step["_step"][:, 0]))
    close(scored.dist.logp, mixture.at(rows).logp)
    assert not scored.logp.requires_grad


def played(part, models, count=6):
    made = override(replace(load("nash_md"), sampling=part), {"selection.count": count, "reward.level": 0.0})
    run = Run(models, answers(BIASED, 3), generate, 1)
    return next(rounds(run, Program((Stage(made, 1),)))), run


def test_opponents_are_of_the_mixture_and_leave_when_judged() -> None:
    """With all weight on a reference that is sure of answer 1, every row meets answer 1."""
    sure = torch.full((3, 3), -50.0)
    sure[:, 1] = 50.0
    models = {"policy": Table(numbers(3, 3)), "reference": Table(sure)}
    models["mixture"] = Blended(models["policy"], models["reference"], 1.0)
    done, _ = played(GroupAgainst(2, 3, "mixture"), models)
    rows = done.judged
    assert len(rows) == 12
    assert not bool(rows.row["opponent"].any())
    close(rows.step["reward"][:, 0], BIASED[rows.step["_step"][:, 0], 1])


def test_recorded_rows_are_opponents_too() -> None:
    done, _ = played(GroupAgainst(2, 1, RECORDED), {"policy": Table(numbers(3, 3))})
    rows = done.judged
    close(rows.step["reward"][:, 0], BIASED[rows.step["_step"][:, 0], 0])
    assert GroupAgainst(by=RECORDED).data == "rows"
    assert GroupAgainst().data == ""


def test_the_average_of_past_policies_is_the_other_opponent() -> None:
    made = override(load("nash_md:nash_ema"), {"selection.count": 6, "update.learning_rate": 0.1})
    run = Run({"policy": Table(numbers(3, 3))}, answers(BIASED, 3), generate, 1)
    first = run.models["policy"].logits.detach().clone()
    list(rounds(run, Program((Stage(made, 1),))))
    moved = run.models["policy"].logits.detach()
    assert float((moved - first).abs().max()) > 0.01
    close(run.models["average"].logits, 0.9 * first + 0.1 * moved)


def test_runs_against_mixtures_and_averages_go_on_bitwise() -> None:
    """A mixture owns nothing, an average its own weights."""
    for key in ("nash_md", "nash_md:nash_ema"):
        options = {"selection.count": 4, "update.learning_rate": 0.1}
        resumed(load(key), answers(BIASED, 2), lambda: Table(numbers(2, 3)), changes=options)


def test_refusals() -> None:
    with pytest.raises(CompositionError, match="opponent"):
        GroupAgainst(1, 0)
    with pytest.raises(CompositionError, match="opponent"):
        replace(load("reinforce"), reward=WinRate(opponents=True))
    ctx = context(method(), {"policy": torch.nn.Identity()}, SimpleNamespace())
    with pytest.raises(CompositionError, match="prefer"):
        WinRate()(ctx, ragged())
    with pytest.raises(ValueError, match="compare"):
        replace(answers(BIASED), compare=None).prefer(ragged(), ragged())
    assert isinstance(load("nash_md").models["reference"], Copy)
