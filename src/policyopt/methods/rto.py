"""RTO: reinforced token optimization (DPO Meets PPO, arXiv 2404.18922, the practical version of RTO).

    r_t = clip(b1 (log pi_dpo - log pi_ref), -c, c) - b2 (log pi_old - log pi_ref) + 1[t = last] clip(R, -10, 10)

then PPO. Bounds are those of the released code (zkshan2002/RTO: `_compute_dpo_rewards`, `compute_reward`). The model
`preferred` is one that method dpo trained on preferences from the same reference.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Copy, Critic, Given, Role
from policyopt.methods.ppo import ppo
from policyopt.reward.dense import LogRatioReward, RunningScore
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.update.optimizers import AdamW

rto = replace(
    ppo,
    about=About(
        key="rto",
        title="DPO Meets PPO: Reinforced Token Optimization for RLHF",
        paper="arXiv 2404.18922",
        equation="token reward of the practical version; released code zkshan2002/RTO",
        mechanism="A policy trained by DPO is a reward model of single tokens: its log-ratio to the reference sums to "
        "the reward that preferences imply. Paid along the way, it tells PPO which tokens earned the row's reward.",
        departures="The first stage is method dpo on recorded pairs; its result is given as the model `preferred`.",
        when_to_use="Preference data and a reward of whole answers: cheap credit for tokens.",
        seed=128,
        family="A1",
        nearest="ppo",
    ),
    reward=Chain(
        (
            Verified(),
            RunningScore(centred=False, scaled=False, bound=10.0),
            LogRatioReward(coefficient=0.05, bound=0.05),
            ReferencePenalty(beta=0.01),
        )
    ),
    constraint=(),
    update=replace(ppo.update, optimizers={"policy": AdamW(5e-7), "critic": AdamW(9e-6)}),
    roles={
        "old": Role(when="collected"),
        "reference": Role("reference", when="collected"),
        "preferred": Role("preferred", when="collected"),
    },
    models={
        "reference": Copy(),
        "critic": Critic(),
        "preferred": Given("a policy that dpo trained on preferences, from the same reference"),
    },
)

_WORLD = {
    "selection.count": 16,
    "update.minibatches": 2,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="With the token rewards of a DPO model PPO learns more from as many samples as with the reward of whole "
    "rows alone.",
    source="arXiv 2404.18922, section 5.3 (sample efficiency); specification 128",
    experiment="hidden_token_rewards",
    observable="share of the attainable reward, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("rto", _WORLD),
    baseline=Arm("rto", {**_WORLD, "reward.coefficient": 0.0}, label="the same without token rewards"),
    rounds=40,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1)),
    scope="Strings of 16 of 6 symbols with a hidden reward of every symbol at its place; 500 sampled preferences; "
    "tables. Both arms train the same DPO model and begin at the same reference.",
)
