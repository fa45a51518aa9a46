"""PSPO*: process-supervised policy optimization with a nonlinear reward (arXiv 2411.11681).

m = (prod_j s_j)^(1/n) ;   R = m f(m, n): m e^(n/2) up to 4 steps, then growth for good chains and decay for bad ones ;
PPO on R at the last step
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.methods.ppo import ppo
from policyopt.reward.steps import ShapedChain

pspo_wrs = replace(
    ppo,
    about=About(
        key="pspo_wrs",
        title="PSPO*: An Effective Process-supervised Policy Optimization for Reasoning Alignment",
        paper="arXiv 2411.11681",
        equation="reward of a chain: geometric mean of step scores times a shaping factor of quality and length",
        mechanism="The worth of a chain is a nonlinear function of how good its steps are and how many there are: "
        "short chains gain quickly with every step, longer ones go on gaining only if their steps are good.",
        departures="Step scores come from the world's judge, not from a learned reward model. The factor is the "
        "released piecewise one (it jumps in m and has no bound in n; `most` caps n); the adjusted Weibull curve of "
        'the paper\'s name is an option (`factor` "rising" or "peaked"), instantiated by the specification.',
        when_to_use="Chains of steps that can be scored one by one, which are too short or too long.",
        seed=98,
        family="A2",
        nearest="ppo",
    ),
    reward=ShapedChain(),
)

_WORLD = {
    "selection.count": 32,
    "constraint.kl.weight": 0.0,
    "update.minibatches": 1,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="Where four steps are needed and each further one is worse, the shaped reward succeeds more often than "
    "the geometric mean of the step scores alone, which stops too early.",
    source="arXiv 2411.11681, section 3 (accuracy and quantity of steps); specification 98",
    experiment="fading_steps",
    observable="probability that a chain has the needed steps and all are right",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("pspo_wrs", _WORLD),
    baseline=Arm("pspo_wrs", {**_WORLD, "reward.factor": "flat"}, label="geometric mean alone"),
    rounds=60,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1)),
    scope="The need of four steps is that of the factor's pivot. With a fall of 3 % a step or less the released factor "
    "has no inner optimum and drives chains to the limit (specification 98).",
)
