"""ReDit: reward dithering (arXiv 2506.18631).

R~_i = R_i + e_i, e_i ~ U(-a, a) or N(0, a^2 / 3) ;   A_i = (R~_i - mean R~) / std R~ ;   the rest is GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain
from policyopt.methods.grpo import grpo
from policyopt.reward.dithering import Dithered
from policyopt.reward.parts import Verified

redit = replace(
    grpo,
    about=About(
        key="redit",
        title="ReDit: Reward Dithering for Improved LLM Policy Optimization",
        paper="arXiv 2506.18631",
        equation="section 3 (dithered reward before group normalisation)",
        mechanism="Rewards of 0 and 1 leave many groups without spread, whose advantages are 0. A little noise of mean "
        "0 on every reward gives each group a spread; in a group of equal rewards the advantages are then "
        "standardised noise, whatever the noise's width.",
        departures="None. The width may fall or grow on a line over the rounds (option `final`).",
        when_to_use="Rewards of few values, where most groups are all right or all wrong; not once most are solved.",
        seed=96,
        family="A2",
        nearest="grpo",
    ),
    reward=Chain((Verified(), Dithered(0.05))),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Noise of width 0.05 on rewards of 0 and 1 learns faster than GRPO without it.",
    source="arXiv 2506.18631, abstract and section 4 (equal accuracy in a tenth of the steps); specification 96",
    experiment="right_or_wrong_choice",
    observable="probability of the right choice, mean over tasks and rounds",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=Arm("redit", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=120,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
    scope="Choices of one step by a linear policy; no language model.",
)
