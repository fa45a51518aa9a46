"""SAC: its fixed points where they are known, and what trains what."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policyopt.compose import CompositionError, Scalar
from policyopt.distributions import Gaussian
from policyopt.methods import load
from policyopt.objective.pathwise import SoftImprovement
from policyopt.options import override
from policyopt.policies.tabular import Table, TableQ
from policyopt.types import Batch, Finish
from policyopt.update.following import Average
from policyopt.worlds import oracles
from references_values import Bowl, Squashed, every_transition, forks, iterated, transitions
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

MDP = forks()


def settled(alpha: float, decay: float = 0.0) -> Any:
    """SAC of choices with a temperature that stays (its optimiser has rate 0) and a target of its own decay."""
    made = override(load("sac"), {"objective.critic.loss.gamma": MDP.gamma, "constraint.entropy": 0.5})
    hooks = (Average("target", "critic", decay=decay),)
    models = {**made.models, "temperature": Scalar(alpha)}
    return replace(made, models=models, update=replace(made.update, after_step=hooks))


def tables() -> dict[str, nn.Module]:
    return {
        "policy": Table(numbers(MDP.states, MDP.actions, seed=1)),
        "critic": TableQ(numbers(2, MDP.states, MDP.actions, seed=2)),
    }


def rates(batch: Batch, policy: float = 20.0, temperature: float = 0.0) -> dict[str, float]:
    return {"critic": len(batch) / 2, "policy": policy, "temperature": temperature}


def test_its_fixed_point_is_the_soft_optimum() -> None:
    """Over choices: V = alpha log sum exp(Q / alpha), pi = softmax(Q / alpha), by exact soft value iteration."""
    batch = every_transition(MDP)
    run = iterated(settled(0.4), tables(), batch, 250, rates(batch))
    value, policy = oracles.soft_optimum(MDP, 0.4, torch.ones(MDP.states, MDP.actions))
    on = ~MDP.ends
    close(run.models["policy"].logits.softmax(-1)[on], policy[on], atol=1e-5)
    q = run.models["critic"].values.detach().amin(0)
    close(0.4 * (q / 0.4).logsumexp(1)[on], value[on], atol=1e-5)


def test_little_entropy_is_nearly_value_iteration() -> None:
    """The soft value is at most alpha log 3 / (1 - gamma) above the best one, and not below what it pays for."""
    batch, alpha = every_transition(MDP), 0.03
    run = iterated(settled(alpha), tables(), batch, 150, rates(batch, policy=60.0))
    best, _, _ = oracles.optimum(MDP)
    on = ~MDP.ends
    policy = run.models["policy"].logits.softmax(-1)
    q = run.models["critic"].values.detach().amin(0)
    gap = (policy * q).sum(1)[on].detach() - best[on]
    assert float(gap.abs().max()) < alpha * math.log(3) / (1 - MDP.gamma)


class Free(nn.Module):
    """Normal steps that are not squashed: mean and log_std (S, 1)."""

    kind = "control"

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(1, 1))

    def at(self, batch: Batch, *, following: bool = False) -> Gaussian:
        state = torch.zeros_like(batch.step["kind"], dtype=torch.int64)
        return Gaussian(self.mean[state], self.log_std[state].exp())

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_action"]


class Hill(nn.Module):
    """Q(s, a) = -k (a - 0.7)^2."""

    def __init__(self, k: float):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def q(self, batch: Batch, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        return -self.k * (steps[None, ..., 0] - 0.7) ** 2


def test_a_quadratic_value_has_a_normal_optimum() -> None:
    """pi = exp(Q / alpha) / Z is normal with mean 0.7 and variance alpha / (2 k)."""
    batch = transitions((1,) * 4000).with_steps({"_action": torch.zeros(4000, 1, 1)})
    made = settled(0.5)
    made = replace(made, objective=(replace(made.objective[1], loss=SoftImprovement(0.5)),), constraint=())
    run = iterated(made, {"policy": Free(), "critic": Hill(2.0)}, batch, 60, rates(batch, policy=0.15))
    close(run.models["policy"].mean[0, 0], 0.7, atol=0.02)
    close(run.models["policy"].log_std.exp()[0, 0], math.sqrt(0.5 / 4.0), atol=0.01)


def test_the_temperature_finds_the_target_entropy() -> None:
    """With the policy held at softmax(Q / alpha) by fast steps, the entropy ends at the target."""
    batch = every_transition(MDP)
    made = override(settled(0.4), {"constraint.temperature.loss.entropy": 0.6})
    run = iterated(made, tables(), batch, 400, rates(batch, policy=30.0, temperature=0.5))
    entropy = run.models["policy"].at(batch).entropy().detach()[:, 0].mean()
    close(entropy, 0.6, atol=1e-3)


def test_a_target_entropy_that_choices_can_not_have_is_refused() -> None:
    """The published -1 per dimension: every policy of choices is above it, and the temperature would fall to 0."""
    batch = every_transition(MDP)
    for target in (-1.0, 0.0):
        made = override(settled(0.4), {"constraint.entropy": target})
        with pytest.raises(CompositionError, match=r"set constraint\.entropy above 0"):
            iterated(made, tables(), batch, 1, rates(batch))


def test_trap_51_stopped_transitions_are_worth_their_reward() -> None:
    batch = every_transition(MDP)
    stopped = batch.with_rows({"finish": torch.full_like(batch.row["finish"], int(Finish.STOPPED))})
    run = iterated(settled(0.4), tables(), stopped, 1, rates(batch))
    for head in (0, 1):
        close(run.models["critic"].values[head][~MDP.ends], MDP.mean_reward[~MDP.ends])


def test_trap_55_the_target_is_the_moving_average_of_all_updates() -> None:
    """After n updates: 0.7^n Q_0 + 0.3 sum_k 0.7^(n-k) Q_k."""
    batch, n = every_transition(MDP), 4
    step = {"critic": 1.0, "policy": 1.0, "temperature": 0.1}
    critics = [iterated(settled(0.4, 0.7), tables(), batch, k, step).models["critic"].values for k in range(1, n + 1)]
    expected = 0.7**n * tables()["critic"].values
    for k, values in enumerate(critics, 1):
        expected = expected + 0.3 * 0.7 ** (n - k) * values
    close(iterated(settled(0.4, 0.7), tables(), batch, n, step).models["target"].values, expected)


def test_models_step_in_order_critic_policy_temperature() -> None:
    """The policy's step is against the critic that has just moved; the critic's target uses the old policy."""
    batch = transitions()
    models: dict[str, Any] = {"policy": Squashed(1), "critic": Bowl(3)}
    frozen: dict[str, Any] = {"policy": Squashed(1), "critic": Bowl(3)}
    step = {"critic": 0.5, "policy": 0.5, "temperature": 0.5}
    both = iterated(settled(0.3), models, batch, 1, step)
    only = iterated(settled(0.3), frozen, batch, 1, {**step, "policy": 0.0, "temperature": 0.0})
    close(both.models["critic"].w, only.models["critic"].w)
    unmoved = iterated(settled(0.3), {"policy": Squashed(1), "critic": Bowl(3)}, batch, 1, {**step, "critic": 0.0})
    assert float((both.models["policy"].mean - unmoved.models["policy"].mean).detach().abs().max()) > 1e-4


def test_published_settings() -> None:
    sac = load("sac")
    assert (sac.update.size, sac.update.capacity, sac.update.ratio) == (256, 1_000_000, 1.0)
    assert sac.update.after_step == (Average("target", "critic", decay=0.995),)
    assert sac.constraint[0].loss.entropy == -1.0
    assert sac.models["critic"].heads == 2
    assert all(spec.learning_rate == 3e-4 for spec in sac.update.optimizers.values())
