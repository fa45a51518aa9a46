"""A2C: the plain policy gradient with a critic and an entropy bonus, in numbers and beside its relatives."""

import math
from dataclasses import replace

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.methods import load
from policyopt.reward.parts import FromWorld
from policyopt.types import Finish
from policyopt.update.optimizers import RMSprop
from support import Grid, close, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def rewards_of_own_steps(batch):
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


def made(lam: float = 1.0, gamma: float = 0.9, **changes):
    """A2C with rewards that the batch brings."""
    credit = GeneralisedAdvantage(gamma, lam, whitened=False)
    return replace(load("a2c"), reward=FromWorld(), credit=credit, **changes)


def by_logits(models, batch, slope):
    """Gradient of sum slope_bt log pi_bt to a table of logits."""
    p = models["policy"].logits.detach()[:4, :13].softmax(-1)
    chosen = torch.nn.functional.one_hot(batch.step["_step"], p.shape[-1])
    return torch.where(batch.trained[..., None], slope[..., None] * (chosen - p), 0.0)


def test_gradient_of_the_first_step_in_full() -> None:
    """-mean A grad log pi - 0.01 mean grad H, over trained steps; dH/dz_v = -p_v (log p_v + H)."""
    batch, models = rewards_of_own_steps(ragged()), grids(full=True)
    done = first_step(made(), models, batch)
    advantage = done.round.credited.step["advantage"]
    models, count = grids(full=True), int(batch.trained.sum())
    p = models["policy"].logits.detach()[:4, :13].softmax(-1)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    bonus = torch.where(batch.trained[..., None], -p * (p.log() + entropy), 0.0)
    expected = by_logits(models, batch, -advantage / count) - 0.01 * bonus / count
    close(done.gradient[:4, :13], expected)
    assert float((0.01 * bonus / count).abs().max()) > 1e-5


def test_advantages_are_returns_less_values_with_the_value_of_a_cut_row() -> None:
    """lam = 1: A_t = sum gamma^k r + gamma^n V(end) - V_t; a terminated row ends with 0."""
    batch = with_row(rewards_of_own_steps(ragged(tools=False)), finish=[1, 1, int(Finish.TRUNCATED), 1])
    models = grids(full=True)
    values = models["critic"].values.detach().clone()
    credited = first_step(made(), models, batch).round.credited
    for b, length in enumerate((1, 2, 7, 13)):
        rewards, worth = batch.step["reward"][b, :length].tolist(), values[b, : length + 1].tolist()
        end = worth[-1] if b == 2 else 0.0
        returns = loops.to_go([*rewards, end], 0.9)[:-1]
        close(credited.step["advantage"][b, :length], torch.tensor(returns) - torch.tensor(worth[:-1]))
        close(credited.step["return"][b, :length], returns)


def test_it_is_ppos_first_minibatch() -> None:
    """At r = 1, with the same advantages and without either's constraint."""
    batch = rewards_of_own_steps(ragged())
    found = first_step(made(constraint=()), grids(full=True), batch).gradient
    ppo = replace(load("ppo"), reward=FromWorld(), credit=made().credit, constraint=())
    other = first_step(ppo, grids(full=True), batch).gradient
    assert float(found.abs().max()) > 1e-2
    close(found, other)


def test_with_values_of_zero_it_is_reinforce_as_a_token_mean() -> None:
    """No baseline, nothing bootstrapped: the returns to go, scaled by rows / steps against a mean over rows."""
    batch = rewards_of_own_steps(ragged(tools=False))
    models = grids(full=True)
    models["critic"] = Grid(values=torch.zeros(8, 105))
    found = first_step(made(gamma=1.0, constraint=()), models, batch).gradient
    reinforce = replace(load("reinforce"), reward=FromWorld(), after=())
    close(found * 23 / 4, first_step(reinforce, grids(full=True), batch).gradient)


def test_the_bonus_alone_moves_towards_uniform() -> None:
    """With no advantage the first step raises the entropy of every trained step, and not at the uniform policy."""
    batch = ragged().with_steps({"reward": torch.zeros(4, 13)})
    models = grids(full=True)
    models["critic"] = Grid(values=torch.zeros(8, 105))
    before = models["policy"].logits.detach().clone()
    done = first_step(made(), models, batch)
    move = -done.gradient[:4, :13][batch.trained]
    p = before[:4, :13][batch.trained].softmax(-1)
    rise = (move * -p * (p.log() - (p * p.log()).sum(-1, keepdim=True))).sum(-1)
    assert float(rise.min()) > 0
    models = {"policy": Grid(logits=torch.zeros(8, 104, 5)), "critic": Grid(values=torch.zeros(8, 105))}
    close(first_step(made(), models, batch).gradient, torch.zeros(8, 104, 5))


def test_published_settings() -> None:
    a2c = load("a2c")
    assert (a2c.credit.lam, a2c.credit.whitened) == (1.0, False)
    assert a2c.update.clip_norm == 0.5
    assert a2c.constraint[0].weight == -0.01
    assert a2c.update.optimizers["policy"] == RMSprop(7e-4, 0.99, 1e-5)
    assert (a2c.update.epochs, a2c.update.minibatches) == (1, 1)


def test_rmsprop_by_hand() -> None:
    """s <- 0.99 s + 0.01 g^2 ; x <- x - lr g / (sqrt(s) + epsilon)."""
    gradients, x = numbers(3, 4, seed=1), torch.nn.Parameter(torch.zeros(4))
    optimizer = RMSprop(0.1, 0.9, 1e-3).make([x])
    mean, place = [0.0] * 4, [0.0] * 4
    for row in gradients:
        x.grad = row.clone()
        optimizer.step()
        for n, g in enumerate(row.tolist()):
            mean[n] = 0.9 * mean[n] + 0.1 * g * g
            place[n] -= 0.1 * g / (math.sqrt(mean[n]) + 1e-3)
    close(x, place)
