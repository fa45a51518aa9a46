"""Exact answers for processes written out as tables, by linear systems in float64.

policy, pi: probabilities (S, A). J(pi) = E[sum_t gamma^t r_t] from the first state, the mean over tasks. Functions
named `finite_*` are of the process's horizon; the others are of the process without one (gamma < 1, or an end that is
reached), and of a horizon as well on `tables.unrolled`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policyopt.worlds.tables import TabularMDP


def _start(mdp: TabularMDP) -> Tensor:
    """(S,) the first state of a random task."""
    return mdp.start_at.mean(0)


def _going(mdp: TabularMDP) -> tuple[Tensor, Tensor]:
    """Transition and mean reward of states that are not terminal; zero in those that are."""
    on = (~mdp.ends).double()
    return mdp.transition * on[:, None, None], mdp.mean_reward * on[:, None]


def evaluate(mdp: TabularMDP, policy: Tensor) -> tuple[Tensor, Tensor]:
    """V (S,) and Q (S, A) of a policy: V = r_pi + gamma P_pi V solved; 0 in terminal states."""
    move, reward = _going(mdp)
    chain = torch.einsum("sa,sat->st", policy, move)
    value = torch.linalg.solve(torch.eye(mdp.states).double() - mdp.gamma * chain, (policy * reward).sum(1))
    return value, reward + mdp.gamma * move @ value


def optimum(mdp: TabularMDP) -> tuple[Tensor, Tensor, Tensor]:
    """V* (S,), Q* (S, A) and a greedy policy (S, A), by policy iteration from the uniform policy (exact, and proper
    where terminal states end every episode)."""
    policy = torch.full((mdp.states, mdp.actions), 1 / mdp.actions, dtype=torch.float64)
    while True:
        value, q = evaluate(mdp, policy)
        # A choice is changed only for a better one: ties must not go round in a circle.
        held = (policy * q).sum(1, keepdim=True)
        best = torch.nn.functional.one_hot(q.argmax(1), mdp.actions).double()
        keep = (q.max(1, keepdim=True).values <= held + 1e-12) & (policy.max(1, keepdim=True).values == 1)
        improved = torch.where(keep, policy, best)
        if torch.equal(improved, policy):
            return value, q, policy
        policy = improved


def value_iteration(mdp: TabularMDP, tolerance: float = 1e-12) -> Tensor:
    """V* (S,) by V <- max_a (r + gamma P V) until no value moves by more than `tolerance`."""
    move, reward = _going(mdp)
    value = torch.zeros(mdp.states, dtype=torch.float64)
    while True:
        better = (reward + mdp.gamma * move @ value).max(1).values
        if float((better - value).abs().max()) <= tolerance:
            return better
        value = better


def soft_optimum(mdp: TabularMDP, beta: float, prior: Tensor, tolerance: float = 1e-13) -> tuple[Tensor, Tensor]:
    """V (S,) and the policy (S, A) that maximise E[sum_t gamma^t (r_t - beta KL(pi || prior at s_t))]:
    V = beta log sum_a prior exp(Q / beta), pi = prior exp((Q - V) / beta)."""
    move, reward = _going(mdp)
    value = torch.zeros(mdp.states, dtype=torch.float64)
    while True:
        q = reward + mdp.gamma * move @ value
        better = beta * (prior.log() + q / beta).logsumexp(1) * ~mdp.ends
        if float((better - value).abs().max()) <= tolerance:
            return better, (prior.log() + q / beta).softmax(1)
        value = better


def occupancy(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """(S,) sum_t gamma^t P(s_t = s), 0 in terminal states: d = start + gamma P_pi^T d solved. It sums to the expected
    discounted number of steps; times pi it is the occupancy of state and action."""
    move, _ = _going(mdp)
    chain = torch.einsum("sa,sat->st", policy, move)
    found = torch.linalg.solve(torch.eye(mdp.states).double() - mdp.gamma * chain.T, _start(mdp))
    return torch.where(mdp.ends, 0.0, found)


def expected_return(mdp: TabularMDP, policy: Tensor) -> float:
    """J(pi), of the horizon where that is an end."""
    if mdp.horizon is not None and not mdp.cut:
        return float(finite_values(mdp, policy)[0][0] @ _start(mdp))
    return float(evaluate(mdp, policy)[0] @ _start(mdp))


def policy_gradient(mdp: TabularMDP, logits: Tensor) -> Tensor:
    """(S, A) dJ / dlogits of a softmax table: d(s) pi(a|s) (Q(s, a) - V(s)) (Sutton et al. 2000, theorem 1)."""
    policy = logits.double().softmax(-1)
    value, q = evaluate(mdp, policy)
    return occupancy(mdp, policy)[:, None] * policy * (q - value[:, None])


def fisher(mdp: TabularMDP, logits: Tensor) -> Tensor:
    """(S, A, A) the Fisher information of a softmax table, which is one block a state:
    d(s) (diag(pi) - pi pi^T), d the occupancy (not normalised)."""
    policy = logits.double().softmax(-1)
    blocks = torch.diag_embed(policy) - policy[:, :, None] * policy[:, None, :]
    return occupancy(mdp, policy)[:, None, None] * blocks


def natural_gradient(mdp: TabularMDP, logits: Tensor) -> Tensor:
    """(S, A) the least-norm solution of F x = dJ / dlogits: A(s, a) up to a number per state that changes no
    probability (Kakade 2001); 0 in states that are never visited."""
    blocks, slope = fisher(mdp, logits), policy_gradient(mdp, logits)
    return (torch.linalg.pinv(blocks, hermitian=True) @ slope[..., None])[..., 0]


# -- of a horizon ------------------------------------------------------------------------------------------------------
def _by_time(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """(H, S, A) from (S, A) or itself."""
    if mdp.horizon is None:
        raise ValueError("this process has no horizon")
    return policy.expand(mdp.horizon, *policy.shape) if policy.dim() == 2 else policy


def finite_values(mdp: TabularMDP, policy: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """V (H + 1, S) and Q (H, S, A) by backward induction, of a policy (S, A) or (H, S, A); None: the best one's."""
    move, reward = _going(mdp)
    assert mdp.horizon is not None
    rule = None if policy is None else _by_time(mdp, policy)
    values, q = [torch.zeros(mdp.states, dtype=torch.float64)], []
    for t in reversed(range(mdp.horizon)):
        q.insert(0, reward + mdp.gamma * move @ values[0])
        values.insert(0, q[0].max(1).values if rule is None else (rule[t] * q[0]).sum(1))
    return torch.stack(values), torch.stack(q)


def finite_optimum(mdp: TabularMDP) -> tuple[float, Tensor]:
    """The best J and a policy (H, S, A) that has it."""
    values, q = finite_values(mdp)
    return float(values[0] @ _start(mdp)), torch.nn.functional.one_hot(q.argmax(-1), mdp.actions).double()


def finite_occupancy(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """(H, S) gamma^t P(s_t = s), 0 in terminal states."""
    move, _ = _going(mdp)
    rule, here, found = _by_time(mdp, policy), _start(mdp), []
    for t in range(len(rule)):
        here = torch.where(mdp.ends, 0.0, here)
        found.append(here)
        here = mdp.gamma * torch.einsum("s,sa,sat->t", here, rule[t], move)
    return torch.stack(found)


def finite_policy_gradient(mdp: TabularMDP, logits: Tensor) -> Tensor:
    """(S, A) dJ / dlogits of a softmax table that acts alike at every time."""
    policy = logits.double().softmax(-1)
    values, q = finite_values(mdp, policy)
    advantage = q - values[:-1, :, None]
    return (finite_occupancy(mdp, policy)[..., None] * policy * advantage).sum(0)


# -- distances between occupancies -----------------------------------------------------------------------------------
def normalised(measure: Tensor) -> Tensor:
    return measure / measure.sum()


def chi_square(p: Tensor, q: Tensor) -> Tensor:
    """sum p^2 / q - 1 of two distributions; infinite where p is not absolutely continuous."""
    terms = torch.where(p > 0, p * p / q, 0.0)
    return terms.sum() - 1
