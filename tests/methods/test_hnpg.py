"""HNPG: `reduces_to` of specification 155, each identity a test."""

from dataclasses import replace

import pytest
import torch

import references_critics as loops
from policyopt.compose import CompositionError, Program, Stage, Term
from policyopt.credit.critics import HeldAdvantage, PolicyValueAdvantage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.locks import lock
from policyopt.methods import load
from policyopt.objective.successors import ActionReturnError
from policyopt.options import override
from policyopt.policies.tabular import Table, TableCritic, TableQ
from policyopt.run import Run
from policyopt.sampling.beside import given_steps, written_steps
from policyopt.sampling.samplers import Group
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.update.averaging import TokenMean
from policyopt.worlds import oracles
from policyopt.worlds.tables import RecordedEpisodes
from support import close, context, full_step, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

CODE = torch.tensor([1, 0, 1])
MDP = lock(CODE)
ROLES = load("hnpg").roles


def rows(policy, count: int = 6):
    ctx = context(method(), {"policy": policy}, MDP, generate)
    batch = ctx.extend(MDP.start(MDP.tasks(torch.zeros(count, dtype=torch.int64))))
    return batch.with_steps({"reward": MDP.grade(batch)})


def test_the_critic_of_own_steps_equals_the_loops() -> None:
    """sum_e (Q_e - G)^2 / 2, value and gradient."""
    policy, table = Table(numbers(7, 2)), numbers(2, 7, 2, seed=4)
    batch = rows(policy).with_steps({"return": numbers(6, 3, seed=5)})
    made = method(Term("a", ActionReturnError("critic"), TokenMean(), trains="critic"))
    loss, slope = full_step(context(made, {**grids(), "critic": TableQ(table)}), batch, model="critic")
    states, steps = (batch.step[name][batch.trained].tolist() for name in ("_state", "_step"))
    value, expected = loops.action_returns(table.tolist(), states, steps, batch.step["return"][batch.trained].tolist())
    close(loss, value)
    close(slope, expected)


def test_values_are_of_the_policy_under_its_critic() -> None:
    """The same as a state critic that holds sum_a pi Q."""
    policy, q = Table(numbers(7, 2)), TableQ(numbers(1, 7, 2, seed=4))
    state = TableCritic(7, torch.float64)
    with torch.no_grad():
        state.values.copy_((policy.logits.softmax(-1) * q.values[0]).sum(1))
    batch = rows(policy)
    ctx = context(method(roles={}), {"policy": policy, "q": q, "critic": state})
    found = PolicyValueAdvantage(0.9, 0.7)(ctx, batch).step
    expected = HeldAdvantage(0.9, 0.7)(ctx, batch).step
    for name in ("advantage", "return", "value"):
        close(found[name], expected[name])


def test_with_the_exact_critic_both_halves_agree() -> None:
    """lam = 0: r + V(s') - V(s) of a step is Q(s, a) - V(s) where the world is deterministic."""
    policy = Table(numbers(7, 2))
    exact = oracles.evaluate(MDP, policy.logits.detach().softmax(-1))[1]
    batch = rows(policy)
    ctx = context(method(roles={}), {"policy": policy, "q": TableQ(exact[None])})
    found = PolicyValueAdvantage(1.0, 0.0)(ctx, batch).step["advantage"]
    value = (policy.logits.detach().softmax(-1) * exact).sum(1)
    s, a = batch.step["_state"], batch.step["_step"]
    close(found[batch.own], (exact[s, a] - value[s])[batch.own])


def made(**changes):
    small = {"selection.count": 8, "update.then.minibatches": 1, "update.then.epochs": 5}
    return override(load("hnpg"), {**small, "update.then.optimizers.q.learning_rate": 0.1, **changes})


def test_without_recorded_rows_it_is_trpo_with_a_critic_of_returns() -> None:
    hybrid = replace(made(), sampling=Group(size=1))
    own = replace(hybrid, objective=tuple(t for t in hybrid.objective if t.mask is written_steps))
    own = replace(own, objective=tuple(replace(t, mask=load("trpo").objective[0].mask) for t in own.objective))
    found = []
    for one in (hybrid, own):
        run = Run({"policy": Table(torch.zeros(7, 2))}, MDP, generate)
        list(rounds(run, Program((Stage(one, 4),))))
        found.append(run)
    close(found[0].models["policy"].logits, found[1].models["policy"].logits, 1e-9)
    close(found[0].models["q"].values, found[1].models["q"].values, 1e-9)
    assert float(found[0].models["policy"].logits.detach().abs().max()) > 1e-3


def test_two_sources_have_roles_of_their_own() -> None:
    world = RecordedEpisodes(MDP, torch.full((7, 2), 0.5), 40)
    run = Run({"policy": Table(torch.zeros(7, 2))}, world, generate)
    (done,) = rounds(run, Program((Stage(made(), 1),)))
    batch = done.kept
    assert sorted(batch.row["source"].unique().tolist()) == [int(Source.POLICY), int(Source.DATASET)]
    masks = [t.mask for t in load("hnpg").objective]
    assert masks == [written_steps, given_steps, written_steps, given_steps]
    assert done.metrics["trust_region/accepted"] == 1.0 or "trust_region/kl" not in done.metrics


def test_differences_on_recorded_rows_converge_to_the_policys_values() -> None:
    """Many recordings, a policy that stands still: Q of the present policy, not of the author."""
    world = RecordedEpisodes(MDP, torch.full((7, 2), 0.5), 300)
    logits = numbers(7, 2)
    one = made(**{"selection.count": 150, "update.then.epochs": 60, "constraint.limit": 1e-12})
    one = replace(one, objective=tuple(t for t in one.objective if t.name != "returns"))
    policy = Table(logits)
    run = Run({"policy": policy}, world, generate)
    list(rounds(run, Program((Stage(one, 4),))))
    exact = oracles.evaluate(MDP, logits.softmax(-1))[1]
    close(run.models["q"].values.detach()[0, :6], exact[:6], 0.02)


def test_a_policy_without_action_values_is_refused() -> None:
    with pytest.raises(CompositionError, match=r"action values|values of every choice|distributions"):
        PolicyValueAdvantage(critic="critic")(context(method(), grids()), with_row(ragged(), finish=[1] * 4))
