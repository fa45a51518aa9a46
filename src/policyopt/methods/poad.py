"""POAD: policy optimization with action decomposition (arXiv 2405.15821).

Tokens j = 1..n of action t:  inside (j < n)  delta = V_{j+1} - V_j,                A_j = delta + lam A_{j+1}
                              last   (j = n)  delta = R_t + gamma V(o_{t+1}) - V_n, A_n = delta + gamma lam A_{t+1,1}
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.credit.critics import DecomposedAdvantage
from policyopt.methods.ppo import ppo

poad = replace(
    ppo,
    about=About(
        key="poad",
        title="Reinforcing Language Agents via Policy Optimization with Action Decomposition",
        paper="arXiv 2405.15821",
        equation="Bellman backup with action decomposition; released code",
        mechanism="An action of an agent is a string of tokens, but time passes between actions only: a token's value "
        "is handed to the next token of its action undiscounted, and reward and discount come at the action's end. "
        "Credit reaches single tokens without making long names of an action worth less than short ones.",
        departures="Advantages are whitened over the round. The loss keeps ppo's KL term, which the paper does not "
        "have (constraint.kl.weight 0). The released trainer has an entropy bonus (0.0001 to 0.01) and leaves out the "
        "policy's step when it has moved by more than 0.02.",
        when_to_use="Agents whose actions are texts, with a discount below 1 between turns.",
        seed=85,
        family="A1",
        nearest="ppo",
    ),
    credit=DecomposedAdvantage(gamma=0.99, lam=0.95),
)

_WORLD = {
    "selection.count": 64,
    "credit.gamma": 0.9,
    "credit.whitened": False,
    "constraint.kl.weight": 0.0,
    "update.minibatches": 2,
    "update.optimizers.policy.learning_rate": 0.05,
    "update.optimizers.critic.learning_rate": 0.1,
}

claim = Claim(
    statement="With a discount, PPO over tokens learns to prefer the shorter of two names for the same action; with "
    "action decomposition it stays indifferent.",
    source="arXiv 2405.15821, section 4.1 (discrepancy of naive token-level optimization); specification 85",
    experiment="two_names_of_an_action",
    observable="|P(short name) - 1/2|, mean over turns, exact",
    higher_is_better=False,
    smallest_effect=0.15,
    treated=Arm("poad", _WORLD),
    baseline=Arm("ppo", _WORLD, label="ppo over tokens"),
    rounds=40,
    scope="A corridor of three turns, each with an action of 1 and of 6 tokens that do the same; tables.",
)
