"""HNPG: hybrid natural policy gradient (arXiv 2311.08384, algorithm 1 and section 5).

L_Q = mean_own (Q(s, a) - G)^2 + mean_recorded (Q(s, a) - r - V(s'))^2,   V(s) = sum_a pi(a|s) Q(s, a)
J   = mean_own r A + mean_recorded sum_a pi(a|s) Q(s, a) ;   a TRPO step, KL averaged over both
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, QCritic, Term
from policyopt.credit.critics import PolicyValueAdvantage
from policyopt.methods.trpo import trpo
from policyopt.objective.action_values import PolicyValue, TemporalDifference
from policyopt.objective.decoupled import RatioSurrogate
from policyopt.objective.pathwise import SoftImprovement
from policyopt.objective.successors import ActionReturnError
from policyopt.sampling.beside import GroupAndRecorded, given_steps, written_steps
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

hnpg = replace(
    trpo,
    about=About(
        key="hnpg",
        title="Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees",
        paper="arXiv 2311.08384",
        equation="algorithm 1 (hybrid fitted policy evaluation and actor update), section 5 (practical form)",
        mechanism="The critic of the present policy is fitted to returns of fresh rows and, by temporal "
        "differences, to recorded ones; the policy takes one trust-region step on the states of both. Recorded rows "
        "show where reward lies; if they mislead, the on-policy half still is natural policy gradient.",
        departures="On recorded states the policy's own choices enter by their exact expectation, not by a draw. J "
        "adds the means over own and over recorded steps, where the release has one over both together. The critic is "
        "fitted after the policy's step and serves the next round. One Q whose states must tell the time.",
        when_to_use="Sparse rewards and recorded rows that cover what is good.",
        seed=155,
        family="A1",
        nearest="trpo",
        policies=("tabular",),
    ),
    sampling=GroupAndRecorded(size=1, recorded=1, apart=True),
    credit=PolicyValueAdvantage(gamma=1.0, lam=1.0),
    objective=(
        Term("policy", RatioSurrogate(), TokenMean(), mask=written_steps),
        Term("recorded", SoftImprovement(temperature=0.0, critic="q", heads="mean"), TokenMean(), mask=given_steps),
        Term("returns", ActionReturnError(), TokenMean(), mask=written_steps, trains="q"),
        Term(
            "differences",
            TemporalDifference(PolicyValue("q", heads="mean"), "q", gamma=1.0),
            TokenMean(),
            mask=given_steps,
            trains="q",
        ),
    ),
    update=replace(trpo.update, then=GradientSteps({"q": AdamW(3e-4)}, epochs=30)),
    models={"q": QCritic(heads=1)},
)

_WORLD = {"update.damping": 1e-3, "constraint.limit": 0.05}

claim = Claim(
    statement="With recorded rows that cover the good path, a natural policy gradient that uses them opens a "
    "combination lock from as many rows as leave TRPO from scratch at nothing.",
    source="arXiv 2311.08384, section 6 (combination lock); specification 155",
    experiment="recorded_lock",
    observable="probability of opening the lock after training, exact",
    higher_is_better=True,
    smallest_effect=0.3,
    treated=Arm("hnpg", {**_WORLD, "selection.count": 16, "update.then.optimizers.q.learning_rate": 0.05}),
    baseline=Arm(
        "trpo",
        {**_WORLD, "selection.count": 32, "credit.gamma": 1.0, "update.then.optimizers.critic.learning_rate": 0.05},
    ),
    rounds=30,
    scope="14 steps of two choices, tables; 200 recorded rows of an author that is right four times of five. Rows "
    "that are read count as much as rows that are generated.",
)
