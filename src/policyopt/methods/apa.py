"""APA: advantage-induced policy alignment (arXiv 2306.02231).

L = mean (log pi - log pi_init - A / lambda)^2 + c_v mean (V - G)^2 / 2,   A: whitened generalised advantages
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.methods.ppo import ppo
from policyopt.objective.anchored import AdvantageAlignment
from policyopt.objective.value import SquaredValueError
from policyopt.update.averaging import TokenMean

apa = replace(
    ppo,
    about=About(
        key="apa",
        title="Fine-Tuning Language Models with Advantage-Induced Policy Alignment",
        paper="arXiv 2306.02231",
        equation="squared error to the optimum without its normaliser",
        mechanism="The optimum of the KL-regularised return is the first policy times exp(A / lambda): "
        "log-probabilities are regressed on that, with a critic's advantages. No ratio, no clip, no KL in the reward.",
        departures="Whitening counts trained steps only (the released code: padding too). No running scale of rewards.",
        when_to_use="A critic, and a wish for a distance from the first policy that stops growing.",
        seed=135,
        family="A1",
        nearest="ppo",
    ),
    objective=(
        Term("policy", AdvantageAlignment(0.1), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
    ),
    constraint=(),
    update=replace(ppo.update, epochs=2),
)

_WORLD = {
    "selection.count": 64,
    "update.epochs": 2,
    "update.minibatches": 1,
    "update.clip_norm": None,
    "update.optimizers.policy.learning_rate": 0.05,
    "update.optimizers.critic.learning_rate": 0.1,
}

claim = Claim(
    statement="Over the last half of training the distance from the first policy grows less under APA than under PPO "
    "without KL.",
    source="arXiv 2306.02231, section 5 (KL to the initial policy); specification 135",
    experiment="distance_from_the_first",
    observable="growth of KL(policy || first policy) per symbol over the last half of training (nats), exact",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=Arm("apa", {**_WORLD, "objective.policy.temperature": 0.5}),
    baseline=Arm("ppo", {**_WORLD, "constraint": ()}, label="ppo without KL"),
    rounds=40,
    scope="Tables; lambda 0.5 for advantages of deviation 1. Distances and shares of right symbols at the end are in "
    "the notes: APA is held where its reward is still below that of PPO.",
)
