"""GRAO: group relative alignment optimization (arXiv 2508.07750).

J = mean_i [A_i J_e(i) + beta A_y J_y + lambda A_i (J_e(i) - J_y)],   J_e, J_y = mean_t log pi of own and reference rows
A_i = (R_i - mean R) / std R,  A_y = (R_y - mean R) / std R over the own rows.  As sum_i A_i = 0, this is
J = (1 + lambda) mean_i A_i J_e(i) + beta A_y J_y: two terms.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.credit.given import OnOwnScale
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import PolicyGradient
from policyopt.sampling.beside import GroupAndRecorded, given_steps, written_steps
from policyopt.update.averaging import SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

grao = replace(
    grpo,
    about=About(
        key="grao",
        title="Learning to Align, Aligning to Learn: A Unified Approach for Self-Optimized Alignment",
        paper="arXiv 2508.07750",
        equation="section 3 (objective of three terms, advantages of own rows and of the reference)",
        mechanism="A reference answer is judged beside the group's own attempts and gets an advantage on their scale: "
        "it is imitated while it is better, and pushed away once own attempts are. The alignment term only scales the "
        "own rows' part, as advantages of a group add up to 0.",
        departures="The weight of `own` is 1 + lambda. The advantage of the reference is clipped to -5..5 (it is "
        "unbounded for a small spread); where own rows are all alike it is the sign of the difference. beta and "
        "lambda are not given in the paper.",
        when_to_use="One good but not best answer per task, and a reward that can compare with it.",
        seed=17,
        family="A1",
        nearest="grpo",
    ),
    sampling=GroupAndRecorded(size=8),
    credit=OnOwnScale(),
    objective=(
        Term("own", PolicyGradient(), SequenceMean(), mask=written_steps, weight=1.5),
        Term("reference", PolicyGradient(), SequenceMean(), mask=given_steps, weight=0.1),
    ),
    constraint=(),
    roles={},
    models={},
)

_WORLD = {
    "selection.count": 4,
    "sampling.size": 8,
    "update": GradientSteps({"policy": SGD(0.8)}, clip_norm=None),
}

claim = Claim(
    statement="With a reference answer beside the own rows, the policy reaches a fixed reward in fewer rows than GRPO.",
    source="arXiv 2508.07750, section 4.2 (convergence in about half of GRPO's steps); specification 17",
    experiment="beside_a_reference",
    observable="rows, own and recorded, until the expected reward is 0.5",
    higher_is_better=False,
    smallest_effect=300.0,
    treated=Arm("grao", {**_WORLD, "objective.own.weight": 1.0}),
    baseline=Arm("grpo", {**_WORLD, "constraint": ()}, label="grpo without KL"),
    rounds=120,
    budget="cost",
    scope="Tables; one learning rate. Whether the policy then passes the reference is in the notes.",
)
