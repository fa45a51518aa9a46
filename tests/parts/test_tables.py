"""Processes written out as tables: the world, its oracles against loops, enumeration and the real loop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.engines.plain import generate
from policyopt.ops.random import generator, new_keys
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.types import Finish, Tasks
from policyopt.worlds import oracles
from policyopt.worlds.tables import (
    RecordedEpisodes,
    TabularMDP,
    chain,
    contextual_bandit,
    garnet,
    gridworld,
    places,
    unrolled,
)
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


def random_mdp(seed: int = 0, gamma: float = 0.8) -> TabularMDP:
    return garnet(4, 3, 2, torch.Generator().manual_seed(seed), gamma)


def by_loops(mdp: TabularMDP, policy, steps: int = 400):
    """V, the visits and J by following the process for many steps, in Python numbers."""
    move, reward, rule = mdp.transition.tolist(), mdp.mean_reward.tolist(), policy.tolist()
    here = mdp.start_at.mean(0).tolist()
    visits, total = [0.0] * mdp.states, 0.0
    for t in range(steps):
        following = [0.0] * mdp.states
        for s in range(mdp.states):
            if bool(mdp.ends[s]):
                continue
            visits[s] += mdp.gamma**t * here[s]
            for a in range(mdp.actions):
                total += mdp.gamma**t * here[s] * rule[s][a] * reward[s][a]
                for n in range(mdp.states):
                    following[n] += here[s] * rule[s][a] * move[s][a][n]
        here = following
    return visits, total


def test_values_and_occupancy_equal_following_the_process() -> None:
    for mdp in (random_mdp(), gridworld(["S.G", ".#X", "..S"], 0.2, 0.9), chain(4, 0.1, 0.9)):
        policy = numbers(mdp.states, mdp.actions, seed=3).softmax(-1)
        visits, total = by_loops(mdp, policy)
        close(oracles.occupancy(mdp, policy), visits, 1e-9)
        without = mdp if mdp.cut else replace(mdp, horizon=None)
        close(oracles.expected_return(without, policy), total, 1e-9)
        pairs = oracles.occupancy(mdp, policy)[:, None] * policy
        close((pairs * mdp.mean_reward).sum(), total, 1e-9)


def test_chain_by_hand() -> None:
    """gamma 1/2, no slip: V* = 1/2, 1, 0. Uniform: V0 = V0 / 4 + V1 / 4 and V1 = V0 / 4 + 1/2."""
    mdp = chain(3, gamma=0.5)
    value, q, policy = oracles.optimum(mdp)
    close(value, [0.5, 1.0, 0.0])
    close(q[:2], [[0.25, 0.5], [0.25, 1.0]])
    assert policy[:2].argmax(1).tolist() == [1, 1]
    uniform, _ = oracles.evaluate(mdp, torch.full((3, 2), 0.5))
    close(uniform, [2 / 11, 6 / 11, 0.0])


@pytest.mark.parametrize("seed", range(3))
def test_policy_iteration_equals_value_iteration(seed: int) -> None:
    for mdp in (random_mdp(seed), gridworld(["S..G", ".#.X", "...."], 0.1, 0.95)):
        value, q, policy = oracles.optimum(mdp)
        close(value, oracles.value_iteration(mdp), 1e-10)
        close(oracles.evaluate(mdp, policy)[0], value, 1e-12)
        assert bool((q.max(1).values[~mdp.ends] <= value[~mdp.ends] + 1e-12).all())


@pytest.mark.parametrize("seed", range(3))
def test_policy_gradient_equals_the_derivative_of_the_return(seed: int) -> None:
    """Autograd through the linear system."""
    mdp = random_mdp(seed)
    logits = numbers(4, 3, seed=seed).requires_grad_()
    policy = logits.softmax(-1)
    system = torch.eye(4) - mdp.gamma * torch.einsum("sa,sat->st", policy, mdp.transition)
    total = mdp.start_at.mean(0) @ torch.linalg.solve(system, (policy * mdp.reward).sum(1))
    (slope,) = torch.autograd.grad(total, logits)
    close(oracles.policy_gradient(mdp, logits.detach()), slope, 1e-11)


def test_natural_gradient_is_the_advantage() -> None:
    """F x = g and x = A(s, .) less its mean over choices, in visited states."""
    mdp, logits = random_mdp(2), numbers(4, 3, seed=5)
    found = oracles.natural_gradient(mdp, logits)
    value, q = oracles.evaluate(mdp, logits.softmax(-1))
    advantage = q - value[:, None]
    close(found, advantage - advantage.mean(1, keepdim=True), 1e-9)
    blocks = oracles.fisher(mdp, logits)
    close((blocks @ found[..., None])[..., 0], oracles.policy_gradient(mdp, logits), 1e-11)


def test_fisher_is_the_expected_outer_product_of_scores() -> None:
    mdp, logits = random_mdp(1), numbers(4, 3, seed=6)
    policy, d = logits.softmax(-1), oracles.occupancy(mdp, logits.softmax(-1))
    expected = torch.zeros(4, 3, 3)
    for s in range(4):
        for a in range(3):
            score = torch.eye(3)[a] - policy[s]
            expected[s] += d[s] * policy[s, a] * torch.outer(score, score)
    close(oracles.fisher(mdp, logits), expected, 1e-12)


def test_finite_oracles_equal_the_unrolled_process() -> None:
    for mdp in (
        replace(random_mdp(3, 0.9), horizon=3, cut=False),
        replace(gridworld(["S.G", ".#X", "..S"], 0.2), horizon=4),
    ):
        logits = numbers(mdp.states, mdp.actions, seed=4)
        policy, flat = logits.softmax(-1), unrolled(mdp)
        wide = torch.cat([policy.repeat(mdp.horizon, 1), torch.full((1, mdp.actions), 1 / mdp.actions)])
        values, q = oracles.finite_values(mdp, policy)
        value, flat_q = oracles.evaluate(flat, wide)
        close(values[:-1].flatten(), value[:-1], 1e-12)
        close(q.flatten(0, 1), flat_q[:-1], 1e-12)
        close(oracles.finite_occupancy(mdp, policy).flatten(), oracles.occupancy(flat, wide)[:-1], 1e-12)
        slope = oracles.policy_gradient(flat, wide.log())[:-1].view(mdp.horizon, mdp.states, -1).sum(0)
        close(oracles.finite_policy_gradient(mdp, logits), slope, 1e-12)
        best, rule = oracles.finite_optimum(mdp)
        close(best, oracles.value_iteration(flat) @ flat.start_at.mean(0), 1e-11)
        close(oracles.finite_values(mdp, rule)[0][0] @ mdp.start_at.mean(0), best, 1e-12)
        close(oracles.expected_return(mdp, policy), values[0] @ mdp.start_at.mean(0))


def test_soft_optimum_has_no_gradient() -> None:
    """The derivative of E[sum r - beta KL] is 0 at its policy; beta -> 0 gives V*."""
    mdp, beta = random_mdp(1), 0.3
    prior = numbers(4, 3, seed=9).softmax(-1)
    value, policy = oracles.soft_optimum(mdp, beta, prior)
    shaped = replace(mdp, reward=mdp.reward - beta * (policy.log() - prior.log()))
    close(oracles.evaluate(shaped, policy)[0], value, 1e-10)
    close(oracles.policy_gradient(shaped, policy.log()), torch.zeros(4, 3), 1e-10)
    sharp, _ = oracles.soft_optimum(mdp, 1e-4, prior)
    close(sharp, oracles.optimum(mdp)[0], 1e-2)


@given(st.integers(0, 10_000), st.floats(0.0, 0.95))
def test_no_policy_beats_the_optimum(seed: int, gamma: float) -> None:
    mdp = random_mdp(seed, gamma)
    best = oracles.optimum(mdp)[0]
    value, _ = oracles.evaluate(mdp, numbers(4, 3, seed=seed + 1).softmax(-1).double())
    assert bool((value <= best + 1e-9).all())
    total = oracles.occupancy(mdp, torch.full((4, 3), 1 / 3, dtype=torch.float64)).sum()
    assert float(total) == pytest.approx(1 / (1 - gamma))


def test_chi_square_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    close(oracles.chi_square(p, q), 1.0)
    assert math.isinf(float(oracles.chi_square(q, p)))


# -- the world -----------------------------------------------------------------------------------------------------
def rolled(mdp: TabularMDP, policy, count: int, seed: int = 0, task: int = 0):
    batch = mdp.start(Tasks(torch.full((count,), task), {"group": torch.arange(count)}))
    return generate(policy, mdp, batch, new_keys(count, generator(seed, "rows")), 1.0, 0)


def test_sampled_returns_agree_with_the_oracle() -> None:
    mdp = replace(gridworld(["S.G", ".#X", "..S"], 0.2), horizon=6)
    policy = Table(numbers(mdp.states, 4, seed=3))
    batch = rolled(mdp, policy, 20_000)
    exact = oracles.expected_return(mdp, policy.logits.detach().softmax(-1))
    found = mdp.grade(batch).sum(1)
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(20_000)
    visits = torch.stack([(batch.own & (batch.step["_state"] == s)).double().sum(1).mean() for s in range(mdp.states)])
    exact_visits = oracles.finite_occupancy(mdp, policy.logits.detach().softmax(-1)).sum(0)
    assert float((visits - exact_visits).abs().max()) < 0.05


def test_ends_and_cuts() -> None:
    """Terminal: STOPPED; the horizon: an end, or a cut where the process would go on. Rewards of what was reached."""
    right = Table(torch.tensor([[-50.0, 50.0]] * 3))
    for cut, late in ((False, Finish.STOPPED), (True, Finish.TRUNCATED)):
        batch = rolled(replace(chain(3, horizon=1), cut=cut), right, 2)
        assert batch.row["finish"].tolist() == [int(late)] * 2
        assert batch.row["_state"].tolist() == [1, 1]
        batch = rolled(replace(chain(3, horizon=2), cut=cut), right, 2)
        assert batch.row["finish"].tolist() == [int(Finish.STOPPED)] * 2
        assert chain(3).grade(batch).tolist() == [[0.0, 1.0]] * 2
        assert batch.following("_state").tolist() == [[1, 2]] * 2


def test_a_group_begins_alike_and_then_differs() -> None:
    mdp = replace(random_mdp(0), horizon=6)
    group = torch.tensor([5, 9, 5, 5, 9, 11])
    first = mdp.start(Tasks(torch.zeros(6, dtype=torch.int64), {"group": group}))
    assert len(set(first.row["_state"][group == 5].tolist())) == 1
    assert len(first.row["_noise"].unique()) == 6
    permuted = mdp.start(Tasks(torch.zeros(6, dtype=torch.int64), {"group": group}))
    assert torch.equal(first.row["_state"], permuted.row["_state"])
    assert places(group).tolist() == [0, 0, 1, 2, 1, 0]
    other = replace(mdp, seed=1).start(Tasks(torch.zeros(6, dtype=torch.int64), {"group": group}))
    assert not torch.equal(first.row["_noise"], other.row["_noise"])


def test_recorded_episodes_are_the_same_whenever_asked_for() -> None:
    inner = replace(random_mdp(0), horizon=5)
    world = RecordedEpisodes(inner, torch.full((4, 3), 1 / 3, dtype=torch.float64), 50)
    ids = torch.tensor([3, 17, 42])
    one = world.recorded(Tasks(ids, {"group": torch.tensor([100, 101, 102])}))
    other = world.recorded(Tasks(ids.flip(0), {"group": torch.tensor([7, 8, 9])}))
    assert torch.equal(one.step["_step"], other.step["_step"].flip(0))
    assert torch.equal(one.row["_state"], other.row["_state"].flip(0))
    assert one.row["group"].tolist() == [100, 101, 102]
    close(one.step["behaviour"], torch.full((3, 5), -math.log(3)))
    pairs = world.recorded_pairs(Tasks(ids, {"group": torch.tensor([100, 101, 102])}))
    worth = world.grade(pairs).sum(1)
    for pair in (100, 101, 102):
        chosen, rejected = ((pairs.row["pair"] == pair) & (pairs.row["rank"] == r) for r in (0, 1))
        assert float(worth[chosen]) >= float(worth[rejected])


def test_a_number_that_is_asked_for_twice_has_the_same_episodes_twice() -> None:
    world = RecordedEpisodes(replace(random_mdp(0), horizon=5), torch.full((4, 3), 1 / 3, dtype=torch.float64), 50)
    alone, twice = world.write(torch.tensor([3]), 2), world.write(torch.tensor([3, 17, 3]), 2)
    for name in ("_step", "_state"):
        for place in (0, 4):
            assert torch.equal(twice.step[name][place : place + 2], alone.step[name])
    assert torch.equal(twice.row["_state"][[0, 1]], twice.row["_state"][[4, 5]])
    assert not torch.equal(alone.step["_step"][0], alone.step["_step"][1])


def test_malformed_processes_are_refused() -> None:
    good = random_mdp()
    with pytest.raises(ValueError, match="sum to 1"):
        replace(good, transition=good.transition * 1.1)
    with pytest.raises(ValueError, match=r"\(S, A\) or \(S, A, S\)"):
        replace(good, reward=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="never end"):
        replace(good, horizon=None)
    with pytest.raises(ValueError, match="unrolled"):
        unrolled(good)
    with pytest.raises(ValueError, match='write "S"'):
        gridworld(["..", "G."])


# -- policies ------------------------------------------------------------------------------------------------------
def test_a_linear_policy_of_one_hot_features_is_a_table() -> None:
    mdp, logits = replace(random_mdp(0), horizon=5), numbers(4, 3, seed=2)
    table, linear = Table(logits), Linear(torch.eye(4), logits)
    batch = rolled(mdp, table, 6)
    assert torch.equal(batch.step["_step"], rolled(mdp, linear, 6).step["_step"])
    one, other = table.score(batch, full=True), linear.score(batch, full=True)
    close(one.logp, other.logp)
    close(one.entropy, other.entropy)
    rng = torch.Generator().manual_seed(1)
    q_table, q_linear = table.make_q(rng, 2), linear.make_q(torch.Generator().manual_seed(1), 2)
    close(q_table.q_all(batch), q_linear.q_all(batch))
    close(q_table.q(batch, following=True), q_linear.q(batch, following=True))
    critic = linear.make_critic(rng)
    assert critic.value(batch).shape == (6, 6)


def test_shared_features_share_preferences() -> None:
    """Two states of equal features act alike and get the sum of both gradients."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    policy = Linear(features, numbers(2, 3, seed=4))
    batch = rolled(replace(random_mdp(0), horizon=5), policy, 8)
    policy.score(batch).logp.sum().backward()
    table = Table(policy.logits.detach())
    table.score(batch).logp.sum().backward()
    close(policy.weights.grad, features.T @ table.logits.grad)


def test_distributions_at_the_states_and_after() -> None:
    mdp = replace(random_mdp(0), horizon=5)
    policy = Table(numbers(4, 3, seed=2))
    batch = rolled(mdp, policy, 6)
    after = policy.at(batch, following=True)
    for b in range(6):
        states = [*batch.step["_state"][b].tolist()[1:], int(batch.row["_state"][b])]
        close(after.logp[b], policy.logits.detach()[states].log_softmax(-1))
    flat = batch.flat()
    close(policy.at(flat, following=True).logp[:, 0], after.logp.flatten(0, 1))


def test_contextual_bandit_gradient_by_hand() -> None:
    """Two contexts, two choices, uniform: dJ / dlogit = P(context) 1/2 (r - mean)."""
    mdp = contextual_bandit(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
    slope = oracles.policy_gradient(mdp, torch.zeros(3, 2))
    close(slope, [[-0.25, 0.25], [-0.5, 0.5], [0.0, 0.0]])
