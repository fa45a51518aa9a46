"""SACPO: stepwise alignment for constrained policy optimization (arXiv 2404.11049, algorithm 1).

max E[r] - beta KL  s.t. E[g] >= b:   pi* = pi_r exp(g / (beta / lam)) / Z,   pi_r = pi_ref exp(r / beta) / Z
`sacpo_reward`: DPO on pairs by r, beta, reference pi_ref;  then `sacpo`: DPO on pairs by g, beta / lam, reference pi_r
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.methods.dpo import dpo
from policyopt.objective.pairwise import PairPreference

sacpo_reward = replace(
    dpo,
    about=replace(
        dpo.about,
        key="sacpo_reward",
        title="Stepwise Alignment for Constrained Language Model Policy Optimization: reward",
        paper="arXiv 2404.11049",
        equation="algorithm 1, first step",
        seed=86,
        nearest="dpo",
    ),
)
"""The first stage: alignment to the reward alone."""

sacpo = replace(
    sacpo_reward,
    about=replace(
        sacpo_reward.about,
        key="sacpo",
        title="Stepwise Alignment for Constrained Language Model Policy Optimization",
        equation="algorithm 1 and theorem 1 (the optimum of the Lagrangian is the reward's optimum, tilted by safety)",
        mechanism="The best policy under a constraint on safety is the policy aligned to the reward, tilted once more "
        "by the safety. So two preference optimisations follow each other: the second has its own pairs (the world "
        "`safety`), the first one's result as reference, and a smaller beta that stands for the multiplier.",
        departures="DPO in both stages (KTO is the paper's alternative). Its practical variant is a mean of the two "
        "stages' weights, which is no training. The learning rate is dpo's 1e-6 (released code: 2e-5).",
        when_to_use="Pairs by helpfulness and pairs by safety, and a constraint on the second.",
    ),
    objective=(replace(dpo.objective[0], loss=PairPreference(0.025)),),
    world="safety",
)

_WORLD = {"selection.count": 512, "update.schedule": "linear", "update.learning_rate": 0.3}

claim = Claim(
    statement="Alignment to the reward and then, from there, to safety finds the reference tilted by both; DPO on the "
    "two kinds of pairs mixed does not.",
    source="arXiv 2404.11049, theorem 1 and section 5; specification 86",
    experiment="helpful_then_safe",
    observable="total variation to pi_ref exp((r + 2 g) / beta) / Z, exact",
    higher_is_better=False,
    smallest_effect=0.05,
    threshold=0.05,
    treated=Arm(
        "sacpo",
        {**_WORLD, "objective.beta": 0.5},
        {"first": "sacpo:sacpo_reward", "settings": {**_WORLD, "objective.beta": 1.0}},
    ),
    baseline=Arm("dpo", {**_WORLD, "objective.beta": 1.0}, label="DPO on mixed pairs"),
    rounds=240,
    scope="One context, 8 answers, a table; beta 1, multiplier 2. The mixed arm reads as many pairs of both kinds; no "
    "beta of its own could give them the weights 1 and 2. The learning rate is from development seeds.",
)
