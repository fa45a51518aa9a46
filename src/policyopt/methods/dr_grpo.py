"""Dr. GRPO: "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv 2503.20783, section 3.2).

A_i = R_i - mean R ;   L = -mean_i (1 / L_max) sum_t min(r A, clip(r, 1 - e, 1 + e) A)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role, Term
from policyopt.credit.groups import GroupCentred
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.update.averaging import SequenceSum

dr_grpo = replace(
    grpo,
    about=About(
        key="dr_grpo",
        title="Understanding R1-Zero-Like Training: A Critical Perspective",
        paper="arXiv 2503.20783",
        equation="section 3.2",
        mechanism="GRPO without its two biases: advantages are not divided by the group's spread (which overweights "
        "tasks that are almost always or almost never solved), and a row's loss is not divided by its own length "
        "(which punishes long wrong rows less).",
        departures="The constant divisor is an option; the paper uses the generation limit.",
        when_to_use="Instead of grpo when responses grow longer while they fail, or task difficulty is very mixed.",
        nearest="grpo",
    ),
    credit=GroupCentred(),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.2), SequenceSum(constant=1024.0)),),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {"selection.count": 4, "sampling.size": 8, "update.learning_rate": 0.05}

claim = Claim(
    statement="Without division by length and spread, wrong rows stay shorter than under GRPO.",
    source="arXiv 2503.20783, section 3.1-3.2 and figure 5 (length of incorrect responses)",
    experiment="wrong_lengths",
    observable="expected length of a wrong row after training (steps, of 24)",
    higher_is_better=False,
    smallest_effect=1.0,
    treated=Arm("dr_grpo", {**_WORLD, "objective.constant": 24.0}),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}, label="grpo without KL"),
    rounds=80,
    scope="One learning rate for both arms; nothing is tuned, as the claim is not about speed.",
)
