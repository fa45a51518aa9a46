"""SEED-GRPO: semantic entropy enhanced GRPO (arXiv 2505.12346).

p_k = sum of softmax(mean_t log pi_old) over answers of meaning k ;   SE = -sum_k p_k log p_k
A_i = (R_i - mean R) / (1 + alpha SE / log G) ;   loss of Dr. GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.credit.groups import GroupCentred
from policyopt.credit.uncertainty import SemanticEntropyScaled
from policyopt.methods.dr_grpo import dr_grpo

seed_grpo = replace(
    dr_grpo,
    about=About(
        key="seed_grpo",
        title="SEED-GRPO: Semantic Entropy Enhanced GRPO for Uncertainty-Aware Policy Optimization",
        paper="arXiv 2505.12346",
        equation="semantic entropy over clusters of answers; scaled advantage",
        mechanism="The spread of meanings among a task's own answers says how unsure the policy is of it. Advantages "
        "of unsure tasks are scaled down, so they move the policy less.",
        departures="Answers mean the same where the world says so (equal final answers), not by an entailment model. "
        "The factor is 1 / (1 + alpha SE / log G), read from a re-implementation; the paper's text only asks for one "
        "that falls (linear and exponential forms are options). The entropy weighs clusters by p_k; a summary of the "
        "paper has the plain mean of -log p_k over clusters.",
        when_to_use="Tasks with wrong or unstable labels, which spread the answers without being learnable.",
        seed=95,
        family="A2",
        nearest="dr_grpo",
    ),
    credit=Chain((GroupCentred(), SemanticEntropyScaled(alpha=0.0417))),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "objective.constant": 1.0, "update.learning_rate": 0.1}

claim = Claim(
    statement="Tasks whose right answers change at random take a smaller part of the policy gradient than under Dr. "
    "GRPO.",
    source="arXiv 2505.12346, section 3 (conservative updates on uncertain prompts); specification 95",
    experiment="unlearnable_half",
    observable="share of the squared gradient norm from tasks that can not be learned",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=Arm("seed_grpo", {**_WORLD, "credit.alpha": 2.0}),
    baseline=Arm("dr_grpo", _WORLD),
    rounds=150,
    scope="With alpha = 2. The published 0.0417 leaves a factor of at least 0.96 even at the largest entropy, which "
    "can not show here.",
)
