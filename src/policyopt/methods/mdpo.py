"""MDPO, on-policy: mirror descent policy optimization (arXiv 2005.09814, section 4.1).

L = -mean r_t A_t + (1 / t_k) mean_s KL( pi(. | s) || pi_old(. | s) ),   t_k = 1 - k / K,   m steps on every batch
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.constraint.mirror import InverseAnnealed
from policyopt.methods.trpo import trpo
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

mdpo = replace(
    trpo,
    about=About(
        key="mdpo",
        title="Mirror Descent Policy Optimization",
        paper="arXiv 2005.09814",
        equation="section 4.1 (on-policy objective)",
        mechanism="Every round approximately solves a proximal problem: the linearised return less an exact divergence "
        "to the policy that took the steps, by several gradient steps on that sum (at the first alone the divergence "
        "has no gradient). The pull to the old policy grows over training. Nothing is clipped.",
        departures="Advantages are whitened; the m steps use all rows of a round, and the critic takes as many.",
        when_to_use="Where an exact divergence is at hand and a soft bound on the change is wanted in place of a clip.",
        seed=91,
        family="A1",
        nearest="trpo",
    ),
    constraint=(Term("proximity", ExactKL("policy", "old"), TokenMean(), weight=InverseAnnealed()),),
    update=GradientSteps(
        {"policy": AdamW(learning_rate=3e-4), "critic": AdamW(learning_rate=3e-4)}, epochs=10, clip_norm=0.5
    ),
)

_WORLD = {
    "selection.count": 32,
    "credit.gamma": 0.9,
    "update.clip_norm": None,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="Ten gradient steps on a batch come closer to the solution of the round's proximal problem than one.",
    source="arXiv 2005.09814, section 5.1 (multiple gradient steps); specification 91",
    experiment="proximal_problems",
    observable="share of the attainable decrease of the round's loss that its steps reach, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("mdpo", _WORLD),
    baseline=Arm("mdpo", {**_WORLD, "update.epochs": 1}, label="one step"),
    rounds=25,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1, 0.3, 1.0)),
    scope="A random process and a softmax table, where the solution is pi_old exp(t A) in closed form. The score of "
    "tuning is the observable itself; returns are in the notes.",
)
