"""VoiceGRPO: group relative policy optimization of a classifier (arXiv 2503.03797).

a_1 ... a_G ~ pi_old(. | x), R = 1[a = y] ;   A = (R - mean_g R) / (std_g R + 1e-8)
L = -mean min(r A, clip(r, 1 - e, 1 + e) A) + beta KL(pi_old || pi), exact over the classes

`voicegrpo_released` takes the larger of both for A < 0, as the released code does.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Role, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.returns import ReturnToGo
from policyopt.methods.grpo import grpo
from policyopt.objective.optimistic import OptimisticSurrogate
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import TokenMean
from policyopt.update.optimizers import AdamW

voicegrpo = replace(
    grpo,
    about=About(
        key="voicegrpo",
        title="VoiceGRPO: Modern MoE Transformers with Group Relative Policy Optimization GRPO for AI Voice Health "
        "Care Applications on Voice Pathology Detection",
        paper="arXiv 2503.03797",
        equation="group-normalised advantage, clipped surrogate, exact KL to the old policy",
        mechanism="A classifier is a policy of one step: labels are drawn from a snapshot, a right one has reward 1, "
        "and the group-standardised reward trains the clipped surrogate with a small exact KL from the snapshot.",
        departures="The method is GRPO for one-step choices; the mixture-of-experts network and the synthetic voice "
        "features were the paper's, here a linear classifier of synthetic points. The snapshot is the round's policy.",
        when_to_use="Labels that can be graded but not shown.",
        seed=100,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    sampling=Group(size=20),
    credit=GroupStandardised(epsilon=1e-8),
    objective=(Term("policy", grpo.objective[0].loss, TokenMean()),),
    constraint=(Term("snapshot", ExactKL("old", "policy"), TokenMean(), weight=0.01),),
    update=replace(grpo.update, optimizers={"policy": AdamW(learning_rate=1e-4, weight_decay=1e-5)}),
    roles={"policy": Role(grad=True, full=True), "old": Role(when="collected", full=True)},
    models={},
)

voicegrpo_released = replace(
    voicegrpo,
    about=replace(voicegrpo.about, key="voicegrpo_released", equation="surrogate of the released code"),
    objective=(Term("policy", OptimisticSurrogate(0.2), TokenMean()),),
)

_WORLD = {"selection.count": 10, "sampling.size": 20, "update.optimizers.policy.weight_decay": 0.0}

claim = Claim(
    statement="With the reward 1 for a right label, standardising within groups classifies better after as many labels "
    "than the same surrogate on uncentred rewards.",
    source="arXiv 2503.03797, comparison with PPO; specification 100",
    experiment="labels_of_points",
    observable="accuracy on 2000 fresh points, mean over the rounds of training",
    higher_is_better=True,
    smallest_effect=0.01,
    treated=Arm("voicegrpo", _WORLD),
    baseline=Arm("voicegrpo", {**_WORLD, "credit": ReturnToGo()}, label="A = R"),
    rounds=30,
    tuning=Tuning("update.learning_rate", (0.01, 0.03, 0.1)),
    scope="Six overlapping clouds of points in 10 dimensions with a linear classifier. Notes: what the centres know.",
)
