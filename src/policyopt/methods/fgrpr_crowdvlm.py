"""FGRPR: fuzzy group relative policy reward (CrowdVLM-R1, arXiv 2504.03724).

e_i = |y - yhat_i| / y ;   R_i = (1.5 - e_i) 1[e_i < 0.5] + 1[format] ;   the rest is GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain
from policyopt.methods.grpo import grpo
from policyopt.reward.heads import FuzzyError, HeadSum

fgrpr_crowdvlm = replace(
    grpo,
    about=About(
        key="fgrpr_crowdvlm",
        title="CrowdVLM-R1: Expanding R1 Ability to Vision Language Model for Crowd Counting using Fuzzy Group "
        "Relative Policy Reward",
        paper="arXiv 2504.03724",
        equation="fuzzy reward of a count, plus format reward",
        mechanism="A counted number earns a reward that grows as its relative error shrinks and jumps to 0 at an error "
        "of one half, where an exact match would almost never be rewarded.",
        departures="The method is whole; images and the vision-language model are not here. The world grades rows by "
        'the names "error" (relative) and "format"; where the count is 0, any other number counts as unreadable '
        "(the release divides by zero).",
        when_to_use="Answers that are quantities, where close is worth something.",
        seed=130,
        family="A2",
        nearest="grpo",
    ),
    reward=Chain((HeadSum({"format": 1.0, "error": 0.0}), FuzzyError("error", limit=0.5, most=1.5))),
)

_WORLD = {"selection.count": 32, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Counting errors fall faster under the fuzzy reward than under the reward for the exact number.",
    source="arXiv 2504.03724, section 4 (fuzzy against exact-match reward); specification 130",
    experiment="noisy_counts",
    observable="mean absolute error of the count",
    higher_is_better=False,
    smallest_effect=5.0,
    treated=Arm("fgrpr_crowdvlm", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=150,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="A noisy number in place of an image; both arms are also paid for the format.",
)
