"""Trap 54: generalised advantages and returns."""

import pytest
import torch

import loops
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.ops.sequences import generalised_advantage, to_go
from policyopt.policies.tabular import Table, TableCritic
from policyopt.worlds.sequences import SequenceWorld
from support import (
    close,
    context,
    grids,
    method,
    numbers,
    ragged,
)

pytestmark = pytest.mark.usefixtures("float64")


# -- 54 ---------------------------------------------------------------------------------------------------------
def test_trap_54_gae_closed_forms() -> None:
    """Lengths 1 to 4 in one batch, lambda 0 (one-step TD), 0.5 and 1 (Monte Carlo less V), against the definition."""
    lengths, gamma = (1, 2, 3, 4), 0.9
    rewards, values = numbers(4, 6, seed=1), numbers(4, 6, seed=2)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    for after in (torch.zeros(4), numbers(4, seed=3)):
        for lam in (0.0, 0.5, 1.0):
            found = generalised_advantage(rewards, values, after, mask, gamma, lam)
            for b, length in enumerate(lengths):
                r, v = rewards[b, :length].tolist(), values[b, :length].tolist()
                close(found[b, :length], loops.gae(r, v, float(after[b]), gamma, lam), what=f"lambda {lam}")
                last = float(after[b])
                if lam == 0.0:
                    steps = [x + gamma * n - w for x, n, w in zip(r, [*v[1:], last], v, strict=True)]
                    close(found[b, :length], steps, what="one-step TD")
                if lam == 1.0:
                    returns = loops.to_go([*r[:-1], r[-1] + gamma * last], gamma)
                    close(found[b, :length], torch.tensor(returns) - torch.tensor(v), what="Monte Carlo")
            assert float(found[~mask].abs().max()) == 0.0


def test_trap_54_a_perfect_critic_has_no_advantage() -> None:
    """Reward 1 for ever, gamma 0.9, V = 10: a row cut after 5 steps has value target 10 everywhere; a row that
    ended is worth 1 + 0.9 + ... to its end."""
    mask, gamma = torch.ones(2, 5, dtype=torch.bool), 0.9
    values = torch.stack([torch.full((5,), 10.0), torch.tensor([(1 - gamma**k) / 0.1 for k in (5, 4, 3, 2, 1)])])
    for lam in (0.0, 0.7, 1.0):
        after = torch.tensor([10.0, 0.0])
        found = generalised_advantage(torch.ones(2, 5), values, after, mask, gamma, lam)
        close(found, torch.zeros(2, 5), what=f"lambda {lam}")


def test_trap_54_table_critic_values_the_state_after_a_cut() -> None:
    """In a world of two steps without an end symbol drawn: the state after the cut is the last one's own value."""
    world = SequenceWorld(1, 2, 2, lambda s, t: t.double(), end=0)
    rows = world.start(world.tasks(torch.zeros(2, dtype=torch.int64)))
    for symbols in ([1, 1], [1, 0]):
        rows = world.append(rows, torch.tensor(symbols), torch.zeros(2), ~rows.done, 0)
    critic = TableCritic(2, torch.float64)
    with torch.no_grad():
        critic.values.copy_(torch.tensor([3.0, 5.0]))
    close(critic.value(rows), [[3.0, 5.0, 5.0], [3.0, 5.0, 5.0]])
    ctx = context(method(), {"policy": Table(torch.zeros(2, 2)), "critic": critic}, world)
    found = GeneralisedAdvantage(gamma=0.5, lam=1.0, whitened=False)(ctx, rows).step["advantage"]
    # Row 0 was cut: 0.5 * 5 beyond the last step; row 1 ended. A_1 = after - V_1; A_0 = 0.5 after * 0.5 - V_0 ...
    close(found, [[0.25 * 5 - 3, 0.5 * 5 - 5], [0.0 - 3, 0.0 - 5]])


def test_whitened_advantages_leave_returns_alone() -> None:
    ctx, batch = context(method(), grids()), ragged()
    plain_credit, white = (GeneralisedAdvantage(0.9, 0.5, whitened=w)(ctx, batch) for w in (False, True))
    close(white.step["return"], plain_credit.step["return"])
    own = white.step["advantage"][batch.own]
    close(own.mean(), 0.0)
    close(own.std(), 1.0, atol=1e-7)


def test_to_go_with_a_discount_per_step() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    close(to_go(rewards, 0.5), [[1 + 1 + 1, 2 + 2, 4]])
    close(to_go(rewards, torch.tensor([[0.5, 0.0, 1.0]])), [[2.0, 2.0, 4.0]])
    close(to_go(rewards[:, :0], 0.5), torch.zeros(1, 0))
