"""DPO: `reduces_to` of specification 27, each identity a test."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.methods import load
from policyopt.objective.preference import PairLogistic, pair_logistic
from policyopt.policies.tabular import Table
from policyopt.types import Batch
from policyopt.worlds.sequences import bandit
from support import close, context, full_step, grid, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

BETA = 0.5


def test_at_the_reference_the_loss_is_log_two() -> None:
    """And the gradient -(beta / 2) mean over pairs of grad log pi(y_w) - grad log pi(y_l)."""
    batch = ragged()
    done = first_step(load("dpo"), {"policy": grid(0)}, batch)
    close(done.round.metrics["loss/preference"], math.log(2))
    close(done.round.metrics["preference/accuracy"], 0.5)
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None]
    close(done.gradient[:4, :13], torch.where(batch.trained, sign * 0.1 / 2 / 2, 0.0))


def test_gradient_weighs_pairs_by_how_wrong_they_are() -> None:
    """-beta sigma(-beta Delta) (grad log pi(y_w) - grad log pi(y_l)), away from the reference."""
    batch, models = ragged(), grids()
    gap = torch.where(batch.trained, (models["policy"].logp - models["reference"].logp)[:4, :13], 0.0)
    rho = gap.detach().sum(1)
    delta = torch.stack([rho[0] - rho[2], rho[1] - rho[3]])
    weight = 0.1 * torch.sigmoid(-0.1 * delta) / 2
    done = first_step(load("dpo"), models, batch)
    by_row = torch.cat([-weight, weight])[:, None]
    close(done.gradient[:4, :13], torch.where(batch.trained, by_row, 0.0))
    close(done.round.metrics["loss/preference"], -torch.nn.functional.logsigmoid(0.1 * delta).mean())
    close(done.round.metrics["preference/margin"], 0.1 * delta.mean())


def every_pair(count: int) -> Batch:
    """A row for each side of every ordered pair of different choices of a bandit."""
    world, pairs = bandit(torch.zeros(1, count)), torch.tensor(list(itertools.permutations(range(count), 2)))
    tasks = world.tasks(torch.zeros(2 * len(pairs), dtype=torch.int64))
    rows = world.complete(tasks, pairs.flatten()[:, None])
    number = torch.arange(len(pairs)).repeat_interleave(2)
    return rows.with_rows({"pair": number, "rank": torch.tensor([0, 1]).repeat(len(pairs))})


def exact_loss(policy: Table, reference: Table, reward: torch.Tensor):
    """Loss and gradient of DPO under exact Bradley-Terry probabilities of every pair."""
    batch = every_pair(len(reward))
    sides = batch.step["_step"][:, 0].view(-1, 2)
    chance = torch.sigmoid(reward[sides[:, 0]] - reward[sides[:, 1]])
    (term,) = load("dpo").objective

    def weight(seen, part):
        return len(chance) * chance[part.row["pair"]]

    made = method(replace(term, loss=PairLogistic(BETA), weight=weight))
    ctx = context(made, {"policy": policy, "reference": reference})
    return full_step(ctx, batch)


def test_the_tabular_minimiser_is_the_tilted_reference() -> None:
    """pi_ref exp(r / beta) / Z: the gradient is zero there, not elsewhere, and descent from elsewhere finds it."""
    reward, start = numbers(4, seed=1, scale=0.4), numbers(4, seed=2)
    reference = Table(start[None])
    optimum = (start.log_softmax(-1) + reward / BETA).softmax(-1)
    value, gradient = exact_loss(Table(optimum.log()[None]), reference, reward)
    close(gradient, torch.zeros(1, 4), what="gradient at the optimum")
    other, slope = exact_loss(reference, reference, reward)
    assert float(slope.abs().max()) > 0.01
    assert float(other) > float(value)
    policy = Table(numbers(1, 4, seed=3))
    for _ in range(400):
        _, slope = exact_loss(policy, reference, reward)
        with torch.no_grad():
            policy.logits.sub_(4.0 * slope)
    close(policy.logits.softmax(-1)[0], optimum, atol=1e-8, what="after descent")


def test_conservative_labels_mix_the_two_losses() -> None:
    """e = 0 is DPO; else (1 - e) L(D) + e L(-D)."""
    delta = numbers(7, seed=4)
    close(pair_logistic(delta, 0.3, 0.0), pair_logistic(delta, 0.3))
    mixed = 0.8 * pair_logistic(delta, 0.3) + 0.2 * pair_logistic(-delta, 0.3)
    close(pair_logistic(delta, 0.3, 0.2), mixed)


def test_online_pairs_are_best_against_worst() -> None:
    """Groups 0: rewards 1, 3, 2; group 1: equal rewards make no pair; group 2: an unscored row is no side."""
    batch = with_row(
        ragged((1, 2, 7, 13, 3, 5, 2, 4)),
        group=[0, 1, 0, 1, 0, 2, 2, 2],
        rank=[-1] * 8,
    )
    grades = Grades([1.0, 5.0, 3.0, 5.0, 2.0, float("nan"), 0.0, 4.0])
    done = first_step(load("dpo:dpo_online"), {"policy": grid(0)}, batch, grades)
    assert done.round.judged.row["rank"].tolist() == [1, -1, 0, -1, -1, -1, 1, 0]
    assert done.round.kept.row["_row"].tolist() == [0, 2, 6, 7]
    sign = torch.tensor([1.0, 0, -1, 0, 0, 0, 1, -1])[:, None]
    close(done.gradient[:8, :13], torch.where(batch.trained, sign * 0.1 / 2 / 2, 0.0))


def test_a_constant_in_the_log_ratio_cancels() -> None:
    """Rows of equal length: adding a constant to the policy's log-probabilities changes nothing."""
    batch = ragged((3, 3, 3, 3))
    models = grids()
    loss, slope = first_loss(models, batch)
    with torch.no_grad():
        models["policy"].logp.add_(0.37)
    shifted, same = first_loss(models, batch)
    close(shifted, loss)
    close(same, slope)


def first_loss(models, batch):
    (term,) = load("dpo").objective
    return full_step(context(method(term), models), batch)
