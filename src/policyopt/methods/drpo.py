"""DRPO: decoupled reward policy optimization (arXiv 2510.04474).

s = mean_t log pi,  w = softmax_right((1 - |o| / limit) / lam)
J = sum_right w_i s_i - tau log mean_wrong exp(s_j / tau)
L = -mean J + sg([beta (K - delta)]+) K,   K = mean (log pi_old - log pi)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Nothing, Term, trained_rows
from policyopt.constraint.hinge import DriftFromOld, SquaredHinge
from policyopt.methods.dr_grpo import dr_grpo
from policyopt.objective.implicit import DiscriminativeScores
from policyopt.update.averaging import TokenMean
from policyopt.update.grouped import GroupMean

drpo = replace(
    dr_grpo,
    about=About(
        key="drpo",
        title="DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization",
        paper="arXiv 2510.04474",
        equation="discriminative objective, weights of right rows; released code: penalty",
        mechanism="Right rows are raised above a soft maximum of the group's wrong ones. The wish for short answers "
        "only divides the weight among the right rows, so a long right row weighs less but is never pushed down. A "
        "squared hinge on the change replaces the clip.",
        departures="Prompts of one kind count in the mean over prompts, with 0. The number that says how short a row "
        "is is an option; it is 1 - own steps / limit by default. Rows are sampled at temperature 1 (released: 0.6).",
        when_to_use="Shorter answers without the loss of accuracy that a length penalty in the reward brings.",
        seed=15,
        family="A1",
        nearest="dr_grpo",
        policies=("language", "denoising", "tabular"),
    ),
    credit=Nothing(),
    objective=(Term("policy", DiscriminativeScores(), GroupMean(), mask=trained_rows, couples=("group",)),),
    constraint=(Term("change", DriftFromOld(), TokenMean(), weight=SquaredHinge()),),
    update=replace(dr_grpo.update, minibatches=4),
)

_WORLD = {
    "selection.count": 32,
    "sampling.size": 16,
    "update.minibatches": 1,
    "update.clip_norm": None,
    "update.learning_rate": 0.1,
}

claim = Claim(
    statement="However strongly short answers are wanted, DRPO keeps its accuracy; GRPO with a length penalty in the "
    "reward does not.",
    source="arXiv 2510.04474, section 5.2 (accuracy against length over the weight of the length reward); "
    "specification 15",
    experiment="lengths_and_rightness",
    observable="accuracy after training, exact, the lowest of three weights of the length reward",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("drpo", _WORLD, {"option": "objective.sharpness", "weights": (0.5, 0.15, 0.05)}),
    baseline=Arm("grpo", {**_WORLD, "constraint": ()}, {"weights": (0.3, 1.0, 2.0)}, label="grpo, R - c length"),
    rounds=100,
    scope="The length is one choice of eight; a shorter answer than the prompt needs is right with probability 0.05, "
    "others with 0.8. Weights are those of the specification. If rightness rose smoothly with length, weight on short "
    "rows would cost accuracy here as well.",
)
