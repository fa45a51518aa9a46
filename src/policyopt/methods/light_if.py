"""Light-IF (arXiv 2508.03178): dense rule rewards with a token-wise entropy-adaptive bonus (TEA-RL).

R_i = (1/C) sum_c 1[constraint c holds] ;   L = L_GRPO - mean_it min(5, 10 softmax_t(c_i)_t) H_it ,
c_it = (A_it - mean A) (log pi_it - mean log pi), without gradient

`light_if_cold` (Entropy-SFT): the likelihood of the 80 % of recorded steps of largest -log pi_t - 0.8 H_t.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Role, Term
from policyopt.constraint.entropy_covariance import CovarianceEntropy
from policyopt.methods.grpo import grpo
from policyopt.methods.sft import sft
from policyopt.objective.informative import InformativeSteps
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.reward.checks import Checked
from policyopt.update.averaging import TokenMean

light_if = replace(
    grpo,
    about=About(
        key="light_if",
        title="Light-IF: Endowing LLMs with Generalizable Reasoning via Preview and Self-Checking for Complex "
        "Instruction Following",
        paper="arXiv 2508.03178",
        equation="dense rule reward; TEA-RL and Entropy-SFT as in the released code",
        mechanism="The reward is the share of an instruction's checkable constraints that the answer keeps, so that "
        "groups of wrong answers differ. A bonus for entropy is spent on the steps where being sure goes with being "
        "rewarded. A cold start imitates only steps whose loss exceeds what the policy's own doubt explains.",
        departures="The strength of the bonus has no gradient (the release has one, in a branch that its settings do "
        "not reach). As every row's strengths add up to 10, short rows need a smaller `scale`. Grading prompts by "
        "difficulty and drawing the cold-start answers are stages of the run; the instruction data is not here.",
        when_to_use="Answers under many checkable constraints.",
        seed=148,
        family="A2",
        nearest="grpo",
    ),
    reward=Checked(),
    constraint=(Term("entropy", CovarianceEntropy(), TokenMean()),),
    roles={"policy": Role(grad=True, full=True), "old": Role(when="collected")},
    models={},
)

light_if_cold = replace(
    sft,
    about=replace(light_if.about, key="light_if_cold", equation="Entropy-SFT", nearest="sft"),
    objective=(Term("likelihood", NegativeLogLikelihood(), TokenMean(), mask=InformativeSteps()),),
)
"""The cold start that is meant to keep the policy's entropy."""

_WORLD = {"selection.count": 4, "sampling.size": 16, "constraint.scale": 0.1}

claim = Claim(
    statement="Paid for the share of constraints it keeps, the policy comes to keep all of them sooner than paid only "
    "when it keeps all.",
    source="arXiv 2508.03178, section 3 (dense rewards); specification 148",
    experiment="many_constraints",
    observable="share of strings that keep all constraints, mean over rounds",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("light_if", _WORLD),
    baseline=Arm("light_if", {**_WORLD, "reward.every": True}, label="all or nothing"),
    rounds=120,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="The dense reward alone is compared; both arms have the entropy bonus.",
)
