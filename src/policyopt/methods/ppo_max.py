"""PPO-max: a recipe of PPO for reward models (Secrets of RLHF, arXiv 2307.04964, section 5.4).

    x = clip((R - mean) / std, -c_r, c_r) ;   r_t = -eta (log pi_old - log pi_ref) + 1[t = last] x
    G = A + V, A raw generalised advantages ;   A <- clip(whiten(A), -c_a, c_a) ;   clipped policy and value losses

`ppo_max_critic` trains the critic alone, for the rounds before; `ppo_max_mixed` adds the likelihood of recorded rows.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Term
from policyopt.credit.critics import BoundedAdvantages
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.methods.ppo import ppo
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.reward.dense import RunningScore
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.update.apart import Rehearsal
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

ppo_max = replace(
    ppo,
    about=About(
        key="ppo_max",
        title="Secrets of RLHF in Large Language Models Part I: PPO",
        paper="arXiv 2307.04964",
        equation="section 5.4 (PPO-max), reward with a token penalty",
        mechanism="Scores of a reward model are normalised by running moments and clipped, the distance to the "
        "reference is charged token by token in the reward, advantages are whitened and clipped, and both losses clip. "
        "What keeps training stable is the charge; perplexity, length and KL are what to watch, not the reward.",
        departures="Scores are centred, as the paper writes; the released trainer only divides them where advantages "
        "are whitened (centred=False). The likelihood of pretraining data is a step of its own before each round "
        "(ppo_max_mixed), not a summand of the policy loss. Whitening divides by n - 1. The entropy bonus that the "
        "paper names as optional is left out. No buffer of several rounds.",
        when_to_use="A learned reward model on language, where plain PPO finds what the reward model overrates.",
        seed=33,
        family="A1",
        nearest="ppo",
    ),
    reward=Chain((Verified(), RunningScore(bound=10.0), ReferencePenalty(beta=0.02))),
    credit=Chain((GeneralisedAdvantage(gamma=1.0, lam=0.95), BoundedAdvantages(0.5))),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),
        Term("value", SquaredValueError(clip=0.2), TokenMean(), trains="critic"),
    ),
    constraint=(),
    update=replace(ppo.update, optimizers={"policy": AdamW(5e-7), "critic": AdamW(1.5e-6)}),
)

ppo_max_critic = replace(
    ppo_max,
    about=replace(ppo_max.about, key="ppo_max_critic", equation="section 5.3.3 (critic pre-training)"),
    objective=tuple(term for term in ppo_max.objective if term.name == "value"),
    update=replace(ppo_max.update, optimizers={"critic": AdamW(1.5e-6)}),
)
"""The critic alone, before the policy moves: a stage of a program."""

ppo_max_mixed = replace(
    ppo_max,
    about=replace(ppo_max.about, key="ppo_max_mixed", equation="section 5.3.2 (pretraining data)"),
    before=(
        Rehearsal(
            terms=(Term("recorded", NegativeLogLikelihood(), TokenMean()),),
            update=GradientSteps({"policy": AdamW(5e-7)}),
        ),
    ),
)
"""With recorded rows rehearsed before every round."""

_WORLD = {
    "selection.count": 64,
    "update.minibatches": 2,
    "update.optimizers.policy.learning_rate": 0.05,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="Under a reward that counts one character, PPO-max keeps what the reference finds likely, where PPO "
    "without a distance to it collapses onto a pattern.",
    source="arXiv 2307.04964, sections 5.2 and 5.4; specification 33",
    experiment="favourite_symbol",
    observable="-log of the reference's probability of a sampled symbol, nats, mean over positions, exact",
    higher_is_better=False,
    smallest_effect=0.3,
    treated=Arm("ppo_max", {**_WORLD, "reward.beta": 0.3}),
    baseline=Arm("ppo", {**_WORLD, "constraint.kl.weight": 0.0}, label="ppo without KL"),
    rounds=60,
    scope="Strings of 8 symbols and tables: scores differ by whole deviations along so few steps, so the penalty is "
    "0.3 a step instead of 0.02. No true reward: the claim is about staying near the reference.",
)
