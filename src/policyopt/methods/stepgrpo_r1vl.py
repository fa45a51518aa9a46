"""StepGRPO: step-wise group relative policy optimization (R1-VL, arXiv 2503.12937).

R_i = 1[right] + alpha (1/K) sum_j 1[some wording of key step j occurs in o_i] + 1[o_i is complete and in order] ;
the rest is GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain
from policyopt.methods.grpo import grpo
from policyopt.reward.checks import Checked
from policyopt.reward.heads import HeadSum

stepgrpo_r1vl = replace(
    grpo,
    about=About(
        key="stepgrpo_r1vl",
        title="R1-VL: Learning to Reason with Multimodal Large Language Models via Step-wise Group Relative Policy "
        "Optimization",
        paper="arXiv 2503.12937",
        equation="step-wise reasoning accuracy and validity rewards",
        mechanism="Two rules make the outcome reward denser: the share of annotated key steps that the response names "
        "(in any order), and whether it has all parts with the answer last. All terms are summed into one reward of "
        "the row; in spite of the name no step has an advantage of its own.",
        departures="The method is whole. Images, the vision-language model, the annotation of key steps by a larger "
        'model and the supervised warm-up are not here: the world gives key steps (`checks`) and grades "accuracy" '
        'and "validity".',
        when_to_use="Tasks whose solutions pass through known intermediate results.",
        seed=115,
        family="A2",
        nearest="grpo",
    ),
    reward=Chain((HeadSum({"accuracy": 1.0, "validity": 1.0}), Checked(0.1))),
)

_WORLD = {"selection.count": 8, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="With rewards for key steps and for validity, right answers come earlier than with the outcome alone.",
    source="arXiv 2503.12937, section 3.2 (sparse rewards); specification 115",
    experiment="keyed_derivation",
    observable="probability of a right string, mean over tasks and rounds",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("stepgrpo_r1vl", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=120,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="Symbolic derivations; no images and no supervised warm-up.",
)
