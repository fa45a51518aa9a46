"""Datarus-R1 (arXiv 2508.13382): structure first, then semantics, by a cosine curriculum.

R_i = w(s) R_tag + (1 - w(s)) (mean_k h_step + h_whole) / 2 ;   w(s) = w_1 + (w_0 - w_1) (1 + cos(pi s)) / 2 ;   GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.reward.heads import HeadSum

datarus_r1 = replace(
    grpo,
    about=About(
        key="datarus_r1",
        title="Datarus-R1: An Adaptive Multi-Step Reasoning LLM for Automated Data Analysis",
        paper="arXiv 2508.13382",
        equation="dual reward (tags, hierarchical reward model) with a cosine curriculum",
        mechanism="Two rewards, a cheap one for the structure of the answer and a learned one for its steps and its "
        "whole, are mixed with a weight that goes along a cosine from structure to semantics.",
        departures='The world grades rows by the names "tags", "steps" (the mean of the steps\' scores) and "whole". '
        "The weight's ends, 0.9 and 0.1, and the equal mix of steps and whole are instantiations: the paper gives no "
        "numbers. The notebook data, the reward model and the engineering for memory are not here.",
        when_to_use="Answers that must keep a format before their content can be judged.",
        seed=29,
        family="A2",
        nearest="grpo",
    ),
    reward=HeadSum({"tags": 0.9, "steps": 0.05, "whole": 0.05}, {"tags": 0.1, "steps": 0.45, "whole": 0.45}, "cosine"),
)

_WORLD = {"selection.count": 8, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="From structure to semantics along a cosine ends with more answers that are right and well formed than a "
    "constant half of each.",
    source="arXiv 2508.13382, curriculum of the dual reward; specification 29",
    experiment="tagged_answers",
    observable="share of well formed strings with the right answer, last 10 rounds",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("datarus_r1", _WORLD),
    baseline=Arm(
        "datarus_r1",
        {**_WORLD, "reward": HeadSum({"tags": 0.5, "steps": 0.25, "whole": 0.25})},
        label="half of each throughout",
    ),
    rounds=120,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="Symbolic tags; the steps' scores are exact.",
)
