"""MDPO off policy: specification 91, `reduces_to`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from policyopt.methods import load
from policyopt.objective.pathwise import SoftImprovement
from policyopt.options import override
from policyopt.policies.tabular import Table, TableCritic, TableQ
from policyopt.update.following import Average, Refresh
from policyopt.worlds import oracles
from references_values import Bowl, Squashed, every_transition, forks, iterated, table_critic, transitions
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

MDP = forks()


def settled(c: float, lam: float, m: int) -> Any:
    made = override(
        load("mdpo_off"),
        {
            "objective.gamma": MDP.gamma,
            "objective.policy.loss.proximity": c,
            "objective.policy.loss.temperature": lam,
            "objective.value.loss.temperature": lam,
        },
    )
    hooks = (Average("target", "value", decay=0.0), Refresh("old", every=m))
    return replace(made, update=replace(made.update, after_step=hooks))


def tables() -> dict[str, nn.Module]:
    value = TableCritic(MDP.states, torch.float64)
    value.values.data = numbers(MDP.states, seed=5)
    return {
        "policy": Table(numbers(MDP.states, MDP.actions, seed=1)),
        "critic": TableQ(numbers(2, MDP.states, MDP.actions, seed=2)),
        "value": value,
    }


def test_its_fixed_point_is_the_soft_optimum() -> None:
    """Where pi_old = pi, c log pi + (lam - c) log pi_old - Q is lam log pi - Q, whatever c."""
    batch = every_transition(MDP)
    rates = {"critic": len(batch) / 2, "value": 4.0, "policy": 10.0}
    run = iterated(settled(0.9, 0.4, 10), tables(), batch, 500, rates)
    value, policy = oracles.soft_optimum(MDP, 0.4, torch.ones(MDP.states, MDP.actions))
    on = ~MDP.ends
    close(run.models["policy"].logits.softmax(-1)[on], policy[on], atol=1e-4)
    close(run.models["value"].values[on], value[on], atol=1e-4)


def test_many_steps_give_exponential_weights() -> None:
    """With pi_old and Q held, lam = 0: pi -> pi_old exp(Q / c) / Z, the exact mirror step."""
    batch, models = every_transition(MDP), tables()
    old, q = models["policy"].logits.detach().clone(), models["critic"].values.detach()[0].clone()
    run = iterated(settled(0.8, 0.0, 10**6), models, batch, 300, {"critic": 0.0, "value": 0.0, "policy": 20.0})
    expected = (old.log_softmax(-1) + q / 0.8).softmax(-1)
    close(run.models["policy"].logits.softmax(-1)[~MDP.ends], expected[~MDP.ends], atol=1e-8)


def test_the_first_step_does_not_feel_the_distance() -> None:
    """m = 1, lam = 0: at pi = pi_old the divergence is flat, so c changes nothing of an exact step."""
    batch, step = every_transition(MDP), {"critic": 0.0, "value": 0.0, "policy": 3.0}
    found = [iterated(settled(c, 0.0, 1), tables(), batch, 1, step).models["policy"].logits for c in (0.5, 5.0)]
    close(found[0], found[1])
    later = [iterated(settled(c, 0.0, 9), tables(), batch, 3, step).models["policy"].logits for c in (0.5, 5.0)]
    assert float((later[0] - later[1]).detach().abs().max()) > 1e-2


def test_equal_weights_make_it_sac() -> None:
    """c = lam: the policy's first step is that of SAC's loss with the first head."""
    batch = transitions()
    step = {"critic": 0.0, "value": 0.0, "policy": 0.7}

    def models() -> dict[str, Any]:
        return {"policy": Squashed(1), "critic": Bowl(3), "value": table_critic(5)}

    mirror = iterated(settled(0.3, 0.3, 1000), models(), batch, 1, step)
    made = settled(0.3, 0.3, 1000)
    soft = replace(made, objective=(*made.objective[:2], replace(made.objective[2], loss=SoftImprovement(0.3))))
    first = override(soft, {"objective.policy.loss.heads": "first"})
    close(mirror.models["policy"].mean, iterated(first, models(), batch, 1, step).models["policy"].mean)


def test_old_is_the_policy_from_before_the_last_m_updates() -> None:
    batch, step = every_transition(MDP), {"critic": 1.0, "value": 1.0, "policy": 3.0}

    def after(updates: int) -> Any:
        return iterated(settled(0.8, 0.2, 4), tables(), batch, updates, step).models

    close(after(3)["old"].logits, tables()["policy"].logits)
    close(after(7)["old"].logits, after(4)["policy"].logits)
    assert load("mdpo_off").update.after_step[1] == Refresh("old", every=1000)
