"""DVPO: `reduces_to` of specification 59, each identity a test."""

from dataclasses import replace

import pytest
import torch

import references_critics as loops
from enumeration import first_step
from policyopt.compose import Program, Stage, Term
from policyopt.credit.tokens import FrozenValues
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.successors import SarsaError
from policyopt.ops.sequences import fold_rewards
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import SequenceWorld
from support import Grid, close, context, full_step, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def paid(batch):
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


def models(values=None):
    return {**grids(), "guide": Grid(values=numbers(8, 105, seed=3) if values is None else values)}


def test_the_value_model_equals_the_loops() -> None:
    batch = paid(ragged())
    made = method(Term("a", SarsaError("critic", 0.8), TokenMean(), trains="critic"))
    loss, slope = full_step(context(made, grids()), batch, model="critic")
    values = grids()["critic"].values.detach()[:4, :14].tolist()
    weights = (batch.trained.double() / batch.trained.sum()).tolist()
    rewards = fold_rewards(batch, batch.step["reward"]).tolist()
    expected, slopes = loops.sarsa(values, batch.own.tolist(), batch.trained.tolist(), rewards, weights, 0.8)
    close(loss, sum(w * x for ws, xs in zip(weights, expected, strict=True) for w, x in zip(ws, xs, strict=True)))
    close(slope[:4, :14], slopes)


def test_values_of_steps_by_hand() -> None:
    """Two steps, reward 1: targets sg(w_2) and 1; w = (., 0.5, 0.25)."""
    batch = ragged((2,), tools=False).with_steps({"reward": torch.tensor([[0.0, 1.0]])})
    values = torch.zeros(8, 105)
    values[0, :3] = torch.tensor([7.0, 0.5, 0.25])
    made = method(Term("a", SarsaError("critic"), TokenMean(), trains="critic"))
    loss, slope = full_step(context(made, {**grids(), "critic": Grid(values=values)}), batch, model="critic")
    close(loss, (0.25**2 + 0.75**2) / 2)
    close(slope[0, :3], [0.0, 0.25, -0.75])


def test_advantages_are_whitened_values_of_steps_and_the_first_step_is_their_policy_gradient() -> None:
    batch = paid(ragged())
    made = replace(load("dvpo"), reward=FromWorld(), constraint=())
    done = first_step(made, models(), batch)
    own = numbers(8, 105, seed=3)[:4, 1:14][batch.own]
    expected = torch.zeros(4, 13).masked_scatter(batch.own, (own - own.mean()) / (own.std() + 1e-8))
    close(done.round.credited.step["advantage"], expected)
    close(done.gradient[:4, :13], torch.where(batch.trained, -expected / batch.trained.sum(), 0.0))


def test_values_that_are_the_rows_reward_are_reinforce_with_a_baseline_over_steps() -> None:
    worth = torch.tensor([1.0, -1.0, 0.5, 2.0])
    values = torch.zeros(8, 105)
    values[:4] = worth[:, None]
    batch = paid(ragged())
    made = replace(load("dvpo"), reward=FromWorld(), constraint=())
    found = first_step(made, models(values), batch).round.credited.step["advantage"]
    every = worth[:, None].expand(-1, 13)[batch.own]
    expected = (worth - every.mean()) / (every.std() + 1e-8)
    close(found, torch.where(batch.own, expected[:, None], 0.0))


def test_exact_advantages_give_the_policy_gradient() -> None:
    """w(s_t+1) = Q - V, unwhitened: -mean A grad log pi."""
    part = FrozenValues("critic", whitened=False)
    batch = paid(ragged())
    found = part(context(method(), grids()), batch).step["advantage"]
    close(found, torch.where(batch.own, grids()["critic"].values.detach()[:4, 1:14], 0.0))


def test_nothing_but_the_policy_is_trained_after_the_first_stage() -> None:
    shown = torch.randint(3, (6, 2), generator=torch.Generator().manual_seed(0))
    world = SequenceWorld(6, 3, 2, lambda strings, task: (strings == 1).double().mean(1), recordings=shown)
    changes = {"selection.count": 6, "update.minibatches": 1}
    before = override(load("dvpo:dvpo_values"), {**changes, "update.learning_rate": 0.1})
    after = override(load("dvpo"), {**changes, "update.learning_rate": 0.1})
    policy = Table(torch.zeros(12, 3))
    run = Run({"policy": policy}, world, generate)
    done = rounds(run, Program((Stage(before, 3), Stage(after, 2))))
    for _ in range(3):
        next(done)
    close(policy.logits, torch.zeros(12, 3), 0.0)
    guide = run.models["guide"].values.detach().clone()
    assert float(guide.abs().max()) > 0.05
    list(done)
    close(run.models["guide"].values, guide, 0.0)
    assert float(policy.logits.detach().abs().max()) > 0.05
