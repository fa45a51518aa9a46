"""iGRPO: iterative GRPO, self-feedback-driven reasoning (arXiv 2602.09000).

d_1..d_N ~ pi_old(. | x);  d* = argmax R(x, d_n);   o_1..o_G ~ pi_old(. | x, d*);   GRPO on o_1..o_G under (x, d*)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.sampling.told import RefinedGroup

igrpo = replace(
    grpo,
    about=About(
        key="igrpo",
        title="iGRPO: Self-Feedback-Driven LLM Reasoning",
        paper="arXiv 2602.09000",
        equation="two-stage rollout (drafts, refinements), group advantage of the refinements",
        mechanism="Half of the attempts are drafts; the best of them is put into the prompt, and the other half refine "
        "it and are trained on. As the policy gets better so do its drafts: a demonstration of its own that moves.",
        departures="Drafts come from the first half of the budget, refinements from the second; ties go to the first. "
        "The draft is told as its tokens, by the world's template.",
        when_to_use="Answers that can be improved by looking at one, and rewards that are graded.",
        seed=225,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    sampling=RefinedGroup(size=4, drafts=4),
)

_WORLD = {"selection.count": 16, "update.learning_rate": 0.1, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="At equal numbers of rows, training refinements of one's best draft makes answers without draft better "
    "than GRPO does.",
    source="arXiv 2602.09000, abstract and matched-budget comparison; specification 225",
    experiment="refined_digits",
    observable="expected share of right digits without draft after training",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("igrpo", {**_WORLD, "sampling.size": 4, "sampling.drafts": 4}),
    baseline=Arm("grpo", {**_WORLD, "sampling.size": 8}),
    rounds=120,
    scope="Tables with shared weights for copying the draft: refining shares no computation with answering, which is "
    "what the paper's gain may rest on. What rows with drafts earn is in the notes. No KL term.",
)
