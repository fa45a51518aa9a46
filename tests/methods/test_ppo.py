"""PPO: `reduces_to` of specification 60, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import FromWorld
from support import Grid, close, grids, per_row, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")


def made(lam: float = 0.95, gamma: float = 1.0, clip: tuple[float, float] = (0.2, 0.2), **changes):
    """PPO with rewards that the batch brings, advantages as they are."""
    ppo = load("ppo")
    terms = tuple(replace(t, loss=ClippedSurrogate(*clip)) if t.name == "policy" else t for t in ppo.objective)
    credit = GeneralisedAdvantage(gamma, lam, whitened=False)
    return replace(ppo, reward=FromWorld(), credit=credit, objective=terms, constraint=(), **changes)


def no_reward_from_padding(batch):
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


def own_rows(batch, column):
    """Numbers of the own steps of every row, as lists."""
    return [column[b][batch.own[b]].tolist() for b in range(len(batch))]


def test_first_minibatch_is_advantage_actor_critic() -> None:
    """At r = 1: -mean A_t grad log pi_t over trained steps, A the generalised advantage of own steps."""
    batch, models = no_reward_from_padding(ragged(tools=False)), grids()
    values = models["critic"].values.detach()[:4, :13].clone()
    done = first_step(made(lam=0.6, gamma=0.9), models, batch)
    rewards, worth = own_rows(batch, batch.step["reward"]), own_rows(batch, values)
    for b in range(4):
        expected = loops.gae(rewards[b], worth[b], 0.0, 0.9, 0.6)
        close(done.gradient[b, : len(expected)], -torch.tensor(expected) / 23)


def test_the_critic_descends_its_squared_error() -> None:
    """(V - G)^2 / 2 as a token mean: gradient (V - G) / tokens, G = A + V."""
    batch, models = no_reward_from_padding(ragged(tools=False)), grids()
    done = first_step(made(lam=0.6, gamma=0.9), models, batch, model="critic", table="values")
    advantage = done.round.credited.step["advantage"]
    close(done.gradient[:4, :13], torch.where(batch.own, -advantage / 23, 0.0))
    close(done.round.metrics["loss/value"], 0.5 * (advantage[batch.own] ** 2).mean())


def test_without_a_clip_it_is_the_importance_weighted_policy_gradient() -> None:
    """eps -> inf (a ratio is never below 0, so a low clip of 1 is none): -mean r A grad log pi."""
    batch, models = no_reward_from_padding(ragged()), grids()
    old = models["old"].logp.detach()[:4, :13]
    ratio = (models["policy"].logp.detach()[:4, :13] - old).exp()
    done = first_step(made(clip=(1.0, math.inf)), models, batch, old=old)
    advantage = done.round.kept.step["advantage"]
    expected = torch.where(batch.trained, -ratio * advantage / batch.trained.sum(), 0.0)
    close(done.gradient[:4, :13], expected)
    clipped = first_step(made(), grids(), batch, old=old)
    assert float((clipped.gradient - done.gradient).abs().max()) > 1e-3


def test_lambda_one_is_monte_carlo_and_zero_is_one_step() -> None:
    batch, models = no_reward_from_padding(ragged(tools=False)), grids()
    values = own_rows(batch, models["critic"].values.detach()[:4, :13])
    rewards = own_rows(batch, batch.step["reward"])
    one = own_rows(batch, first_step(made(1.0, 0.9), models, batch).round.credited.step["advantage"])
    models = grids()
    zero = own_rows(batch, first_step(made(0.0, 0.9), models, batch).round.credited.step["advantage"])
    for b in range(4):
        close(one[b], torch.tensor(loops.to_go(rewards[b], 0.9)) - torch.tensor(values[b]))
        following = [*values[b][1:], 0.0]
        close(zero[b], [r + 0.9 * n - v for r, n, v in zip(rewards[b], following, values[b], strict=True)])


def test_gradient_is_exactly_zero_outside_the_trust_interval() -> None:
    """(A > 0, r > 1.2) and (A < 0, r < 0.8), and nowhere else."""
    for ratio, sign, zero in (
        (1.21, 1.0, True),
        (0.79, -1.0, True),
        (1.19, 1.0, False),
        (0.79, 1.0, False),
        (0.81, -1.0, False),
        (1.21, -1.0, False),
    ):
        batch, models = rewarded(ragged((1,)), [sign]), grids()
        models["critic"] = Grid(values=torch.zeros(8, 105))
        old = models["policy"].logp.detach()[:1, :1] - math.log(ratio)
        found = first_step(made(1.0), models, batch, old=old).gradient
        expected = 0.0 if zero else -ratio * sign
        close(found[0, 0], expected, what=f"ratio {ratio}, advantage {sign}")
        if zero:
            assert float(found.abs().max()) == 0.0


def test_advantages_are_whitened_over_the_round() -> None:
    ppo = replace(load("ppo"), reward=FromWorld())
    done = first_step(ppo, grids(), no_reward_from_padding(ragged()))
    credited = done.round.credited
    own = credited.step["advantage"][credited.own]
    close(own.mean(), 0.0)
    close(own.std(), 1.0, atol=1e-7)


def test_the_divergence_term_is_grpos() -> None:
    """At r = 1 it adds 0.01 (log pi - log pi_ref) / tokens to the gradient."""
    batch = per_row(no_reward_from_padding(ragged()), [0.0] * 4, "reward")
    models = grids()
    models["critic"] = Grid(values=torch.zeros(8, 105))
    gap = (models["policy"].logp - models["reference"].logp).detach()[:4, :13]
    ppo = replace(load("ppo"), reward=FromWorld())
    found = first_step(ppo, models, batch).gradient[:4, :13]
    close(found, torch.where(batch.trained, 0.01 * gap / batch.trained.sum(), 0.0))
