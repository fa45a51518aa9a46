"""Methods written for tokens and tables on environments, unchanged: streams of steps and groups of episodes."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from policyopt.compose import Program, Stage
from policyopt.engines.control import ControlEngine
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.bodies import MLP
from policyopt.policies.control import new_actor
from policyopt.run import Run
from policyopt.sampling.streams import Stream
from policyopt.train import rounds
from policyopt.types import Finish
from policyopt.worlds.gymnasium import EnvironmentWorld

STREAMED = ("ppo", "a2c", "trpo", "mdpo", "ppo_ewma", "ppo_ewma:ppo_ewma_kl", "d_ppo_dropout")
GROUPED = ("grpo", "rloo", "gspo", "dr_grpo", "reinforce")
HEADS = ("gaussian", "squashed", "beta")


def acting(name, head="auto", limit=None):
    world = EnvironmentWorld.make(name, limit=limit)
    policy = new_actor(world.observation_space, world.action_space, body=MLP((16,)), head=head)
    return world.acted_by(policy), policy


def streamed(key, horizon=32, count=4, **changes):
    """A method on fragments of episodes; a divergence to the first policy has no meaning here."""
    made = load(key)
    if any(term.name == "kl" for term in made.constraint):
        changes["constraint.kl.weight"] = 0
    return override(replace(made, sampling=Stream(horizon, count)), changes)


def run_of(name, head="auto", limit=None, seed=0):
    world, policy = acting(name, head, limit)
    return Run({"policy": policy}, world, ControlEngine(), seed)


def parameters(run, model="policy"):
    return torch.cat([p.detach().flatten() for p in run.models[model].parameters()])


@pytest.mark.parametrize("key", STREAMED)
def test_streams_of_discrete_actions(key):
    """Two rounds: everything finite, policy and critic move, episodes are counted."""
    run = run_of("CartPole-v1")
    before = parameters(run)
    done = list(rounds(run, Program((Stage(streamed(key), 2),))))
    assert all(math.isfinite(value) for one in done for value in one.metrics.values())
    assert not torch.equal(parameters(run), before)
    assert done[0].judged.own.sum() == 128
    assert any("return" in one.metrics for one in done)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("key", ["trpo", "mdpo", "ppo_ewma"])
def test_streams_of_continuous_actions(key, head):
    """Exact divergences and entropies of whole distributions, through the same scores as for tokens."""
    run = run_of("Pendulum-v1", head, limit=20)
    for done in rounds(run, Program((Stage(streamed(key), 2),))):
        assert all(math.isfinite(value) for value in done.metrics.values())


@pytest.mark.parametrize("key", GROUPED)
def test_groups_of_episodes(key):
    """Attempts of a group begin alike and then differ; advantages are those of the group."""
    run = run_of("CartPole-v1", limit=40)
    changes = {"selection.count": 2, "sampling.size": 4, "update.optimizers.policy.learning_rate": 1e-2}
    before = parameters(run)
    (done,) = rounds(run, Program((Stage(override(load(key), changes), 1),)))
    rows = done.judged
    first = rows.step["_obs"][:, 0]
    for group in rows.row["group"].unique():
        inside = first[rows.row["group"] == group]
        assert torch.equal(inside, inside[:1].expand_as(inside))
    assert len(first.unique(dim=0)) == 2
    torch.testing.assert_close(
        torch.where(rows.own, rows.step["reward"], 0.0).sum(1), rows.lengths.to(rows.step["reward"])
    )
    assert not torch.equal(parameters(run), before)
    assert all(math.isfinite(value) for value in done.metrics.values())


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_the_first_update_is_at_ratio_one(name):
    """What the engine recorded is what the policy says when it is asked again."""
    run = run_of(name, limit=30)
    made = streamed("ppo", **{"update.epochs": 1, "update.minibatches": 1})
    (done,) = rounds(run, Program((Stage(made, 1),)))
    assert abs(done.metrics["policy/ratio"] - 1) < 1e-5
    assert done.metrics["sampler_mismatch"] < 1e-5


@pytest.mark.parametrize(("name", "head"), [("CartPole-v1", "auto"), *(("Pendulum-v1", head) for head in HEADS)])
def test_trpo_keeps_its_limit_on_every_kind_of_action(name, head):
    """The mean divergence over the round's states, asked of the policies before and after."""
    run = run_of(name, head, limit=40)
    made = streamed("trpo", **{"constraint.limit": 0.02})
    twin, accepted = copy.deepcopy(run.models["policy"]), 0
    for done in rounds(run, Program((Stage(made, 4),))):
        rows = done.kept
        with torch.no_grad():
            before, after = (policy.at(rows) for policy in (twin, run.models["policy"]))
            kl = before[rows.own].kl(after[rows.own]).mean()
        assert float(kl) <= 0.02 + 1e-6
        accepted += int(done.metrics["trust_region/accepted"])
        twin.load_state_dict(run.models["policy"].state_dict())
    assert accepted >= 2


def test_a_fragment_that_the_horizon_cut_bootstraps():
    """CartPole pays 1 a step: with a critic that always says 10, gamma 0.9 and lam 1, the return of a cut fragment of n
    steps is sum 0.9^k + 0.9^n 10 = 10 at every step, that of a fallen pole is less."""
    run = run_of("CartPole-v1")
    made = streamed("a2c", horizon=20, **{"credit.gamma": 0.9})
    run.enter(Program((Stage(made, 1),)).at(0))
    critic = run.models["critic"]

    def ten(batch):
        return torch.full((len(batch), batch.steps + 1), 10.0)

    critic.value = ten
    critic.before = lambda batch: ten(batch)[:, :-1].clone().requires_grad_()
    (done,) = rounds(run, Program((Stage(made, 1),)))
    rows = done.credited
    for row in range(len(rows)):
        found = rows.step["return"][row][rows.own[row]]
        if rows.row["finish"][row] == Finish.TRUNCATED:
            torch.testing.assert_close(found, torch.full_like(found, 10.0))
        else:
            assert float(found.max()) < 10.0


@pytest.mark.parametrize("key", ["trpo", "ppo_ewma", "mdpo"])
def test_a_run_on_streams_goes_on_from_its_state(key):
    program = Program((Stage(streamed(key), 4),))
    straight, metrics = run_of("CartPole-v1", seed=3), []
    for done in rounds(straight, program):
        metrics.append(repr(dict(done.metrics)))
        if straight.step == 2:
            state = copy.deepcopy(straight.state())
    again = run_of("CartPole-v1", seed=3)
    again.load_state(state, program)
    assert [repr(dict(done.metrics)) for done in rounds(again, program)] == metrics[2:]
    for name in again.models:
        assert torch.equal(parameters(again, name), parameters(straight, name)), name


def test_single_steps_as_rows_give_the_same_gradient():
    """Fragments or flat transitions, one minibatch of all: the same update."""
    after = []
    for unit in ("row", "step"):
        run = run_of("CartPole-v1")
        made = streamed("ppo", **{"update.epochs": 1, "update.minibatches": 1, "update.unit": unit})
        list(rounds(run, Program((Stage(made, 1),))))
        after.append(parameters(run))
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=1e-7)


def test_the_average_is_asked_and_the_sampler_is_not():
    """PPO-EWMA's denominator is what the engine recorded; no role is scored when rows are collected."""
    run = run_of("CartPole-v1")
    (done,) = rounds(run, Program((Stage(streamed("ppo_ewma"), 1),)))
    assert not done.kept.scores
    assert done.metrics["policy/kl_proximal"] >= 0
