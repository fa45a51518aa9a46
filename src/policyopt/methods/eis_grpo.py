"""EIS-GRPO: learning to judge with equivalent initial states (J4R, arXiv 2505.13346).

x^(1..M): equivalent forms of one comparison, here both orders ;   R_mi = 1[verdict(o_mi) = v^(m)]
A_mi = (R_mi - mean_mi R) / (std_mi R + eps), over all forms together ;   clipped surrogate, mean over steps, - beta k3
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.constraint.divergence import K3Loss
from policyopt.methods.grpo import grpo
from policyopt.sampling.forms import EquivalentForms
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

eis_grpo = replace(
    grpo,
    about=About(
        key="eis_grpo",
        title="J4R: Learning to Judge with Equivalent Initial State Group Relative Policy Optimization",
        paper="arXiv 2505.13346",
        equation="EIS-GRPO objective (pooled advantages over equivalent initial states)",
        mechanism="A judge that answers by position is right in one order and wrong in the other. Rollouts of all "
        "equivalent forms of a comparison are one group, so their rewards differ and it learns; separate groups would "
        "have equal rewards and no gradient.",
        departures="The world names the forms of a task. k3 as the KL term is the specification's instantiation. The "
        "benchmark and its data are not here; consistent accuracy is measured in the experiment.",
        when_to_use="Tasks that can be put in several ways and a policy that falls for the way.",
        seed=106,
        family="B1",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    sampling=EquivalentForms(size=8),
    constraint=(Term("kl", K3Loss(), SequenceMean(), weight=0.04),),
)

_WORLD = {
    "selection.count": 16,
    "sampling.size": 4,
    "constraint": (),
    "roles": {"old": grpo.roles["old"]},
    "models": {},
    "update": GradientSteps({"policy": SGD(5.0)}, clip_norm=None),
}

claim = Claim(
    statement="From a judge that answers by position, groups over both orders give gradient to more of the rows than a "
    "group per order.",
    source="arXiv 2505.13346, section 3 (positional bias); specification 106",
    experiment="judge_of_positions",
    observable="share of rows with an advantage other than 0, mean over training",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("eis_grpo", _WORLD),
    baseline=Arm("eis_grpo", {**_WORLD, "sampling": Group(4), "selection.count": 32}, label="a group per order"),
    rounds=200,
    scope="A logistic judge of two parameters. Both arms answer as many rows; what they learned (weight of the "
    "difference in quality, consistent accuracy) is in the notes.",
)
