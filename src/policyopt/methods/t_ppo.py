"""T-PPO: truncated proximal policy optimization (arXiv 2506.15050).

delta_t = r_t + gamma V(s_t+1) - V(s_t), V(s_l) = 0 if the row has ended, V(s_l-1) if its window ends it for now
policy: clipped surrogate, mean over the steps of this round's window ;   old log-probabilities as they were sampled
value:  (V - G)^2 / 2, mean over all steps of rows that have ended, G the reward to go
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import RECORDED, About, Critic, Term
from policyopt.credit.critics import HeldAdvantage
from policyopt.methods.ppo import ppo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.sampling.windows import Windows, fresh_steps, steps_of_finished
from policyopt.update.averaging import TokenMean

t_ppo = replace(
    ppo,
    about=About(
        key="t_ppo",
        title="Truncated Proximal Policy Optimization",
        paper="arXiv 2506.15050",
        equation="extended GAE, masked policy and value losses",
        mechanism="A round generates a window of steps only. Rows that are not done stay in a pool, so no round waits "
        "for its longest row; the policy learns from every window at once, the critic from rows that have ended.",
        departures="No official code is known. The value loss is not clipped, every row that has ended is used in its "
        "round; no KL term. Rows of the pool keep the steps of earlier policies.",
        when_to_use="Answers of very uneven lengths, where generation waits for the longest.",
        seed=10,
        family="A1",
        nearest="ppo",
    ),
    sampling=Windows(steps=1024),
    credit=HeldAdvantage(gamma=1.0, lam=0.95),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean(), mask=fresh_steps),
        Term("value", SquaredValueError(), TokenMean(), mask=steps_of_finished, trains="critic"),
    ),
    constraint=(),
    roles={"old": RECORDED},
    models={"critic": Critic()},
)

_WORLD = {
    "selection.count": 32,
    "update.minibatches": 2,
    "update.epochs": 2,
    "update.optimizers.policy.learning_rate": 0.05,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="On answers of very uneven lengths windows of an eighth of the longest reach the same level after fewer "
    "steps of decoding than whole rows.",
    source="arXiv 2506.15050, section 4.3 (training efficiency); specification 10",
    experiment="uneven_lengths",
    observable="steps of decoding, one for all rows at once, until the expected share of right symbols is 0.8",
    higher_is_better=False,
    smallest_effect=100.0,
    treated=Arm("t_ppo", {**_WORLD, "sampling.steps": 4, "sampling.paid": "steps"}),
    baseline=Arm("ppo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=60,
    budget="cost",
    scope="Strings of 2 to 32 symbols in tables. Steps of decoding are counted, not seconds: a round of windows "
    "costs 4, a round of whole rows as many as its longest row. 60 rounds of 32 steps at most.",
)
