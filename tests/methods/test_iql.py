"""IQL: what it is between two expectiles, and that nothing is asked of steps that were not recorded."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table, TableCritic, TableQ
from policyopt.types import Batch, Finish
from policyopt.update.following import Average
from policyopt.worlds import oracles
from references_values import every_transition, forks, iterated
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

MDP = forks()
ON = ~MDP.ends


def settled(expectile: float, temperature: float = 0.5, cap: float = 100.0, decay: float = 0.0) -> Any:
    made = override(
        load("iql"),
        {
            "objective.value.loss.expectile": expectile,
            "objective.critic.loss.gamma": MDP.gamma,
            "objective.policy.loss.loss.temperature": temperature,
            "objective.policy.loss.loss.cap": cap,
        },
    )
    return replace(made, update=replace(made.update, after_step=(Average("target", "critic", decay=decay),)))


def tables(unrecorded: float = 0.0) -> dict[str, nn.Module]:
    value = TableCritic(MDP.states, torch.float64)
    value.values.data = numbers(MDP.states, seed=5)
    q = numbers(2, MDP.states, MDP.actions, seed=2)
    q[:, :, 2] += unrecorded
    return {"policy": Table(numbers(MDP.states, MDP.actions, seed=1)), "critic": TableQ(q), "value": value}


def run(made: Any, batch: Batch, updates: int, models: dict[str, nn.Module] | None = None, policy: float = 0.0) -> Any:
    rates = {"critic": len(batch) / 2, "value": 3.0, "policy": policy}
    return iterated(made, models or tables(), batch, updates, rates).models


def test_half_is_the_value_of_who_recorded() -> None:
    """tau = 0.5: Q is that of the policy that recorded, here the uniform one."""
    found = run(settled(0.5), every_transition(MDP), 250)
    uniform = torch.full((MDP.states, MDP.actions), 1 / MDP.actions)
    value, q = oracles.evaluate(MDP, uniform)
    close(found["critic"].values[0][ON], q[ON], atol=1e-6)
    close(found["value"].values[ON], value[ON], atol=1e-6)


def test_towards_one_it_is_the_best_recorded_value() -> None:
    found = run(settled(0.999), every_transition(MDP), 500)
    best, q, _ = oracles.optimum(MDP)
    assert float((found["critic"].values[0][ON].detach() - q[ON]).abs().max()) < 0.05
    lower = run(settled(0.8), every_transition(MDP), 250)["value"].values.detach()
    assert bool((lower[ON] < found["value"].values[ON].detach()).all())
    assert bool((found["value"].values[ON].detach() < best[ON] + 1e-9).all())


def test_what_was_not_recorded_does_not_matter() -> None:
    """Choice 2 left out of the data and given any value: value, critic and policy weights of the others are equal."""
    batch = every_transition(MDP)
    batch = batch[batch.step["_step"][:, 0] != 2]
    found = [run(settled(0.9), batch, 40, tables(unrecorded)) for unrecorded in (0.0, 1000.0)]
    close(found[0]["value"].values, found[1]["value"].values)
    close(found[0]["critic"].values[:, :, :2], found[1]["critic"].values[:, :, :2])


def exponential(q: Tensor, v: Tensor, temperature: float, cap: float) -> Tensor:
    """(S, A) probabilities in proportion to min(exp(A / temperature), cap), the data being uniform."""
    weight = ((q - v[:, None]) / temperature).exp().clamp(max=cap)
    return weight / weight.sum(1, keepdim=True)


def test_the_policy_imitates_in_proportion_to_exponential_advantages() -> None:
    """With critics held, the optimum of the weighted likelihood, with and without the cap."""
    batch = every_transition(MDP)
    for cap in (100.0, 1.1):
        models = tables()
        q, v = models["critic"].values.detach().amin(0).clone(), models["value"].values.detach().clone()
        held = {"critic": 0.0, "value": 0.0, "policy": 4.0}
        made = settled(0.7, 0.9, cap)
        found = iterated(made, models, batch, 600, held).models["policy"].logits.softmax(-1)
        close(found[ON], exponential(q, v, 0.9, cap)[ON], atol=1e-6)


def test_trap_51_values_stop_at_an_end_and_not_at_a_limit() -> None:
    batch = every_transition(MDP)
    finish = batch.row["finish"]
    found = run(settled(0.5), batch.with_rows({"finish": torch.full_like(finish, int(Finish.STOPPED))}), 1)
    close(found["critic"].values[0][ON], MDP.mean_reward[ON])
    cut = torch.where(finish == Finish.STOPPED, finish, int(Finish.TRUNCATED))
    one, other = (run(settled(0.5), rows, 5) for rows in (batch, batch.with_rows({"finish": cut})))
    close(one["critic"].values, other["critic"].values)


def test_published_settings() -> None:
    iql = load("iql")
    weighted = iql.objective[2].loss.loss
    assert (iql.objective[0].loss.expectile, weighted.cap) == (0.7, 100.0)
    assert math.isclose(weighted.temperature, 1 / 3)
    assert iql.update.after_step == (Average("target", "critic", decay=0.995),)
