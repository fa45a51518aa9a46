"""Spectral policy optimization, later stepwise guided policy optimization (arXiv 2505.11595).

R_i = 1[right] in groups with a right row ;   R_i = c k_i / n_i in groups without, k_i right steps before the first
wrong one of n_i ;   the rest is GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain
from policyopt.methods.grpo import grpo
from policyopt.reward.parts import Verified
from policyopt.reward.steps import LeadingSteps, WhereNoneRight

spectral_po = replace(
    grpo,
    about=About(
        key="spectral_po",
        title="Spectral Policy Optimization: Coloring your Incorrect Reasoning in GRPO",
        paper="arXiv 2505.11595",
        equation="reasoning trajectory score; reward of all-wrong groups",
        mechanism="A group in which every answer is wrong teaches GRPO nothing. There, and only there, a judge of "
        "steps reads each answer from its start, and the share of right steps before the first wrong one is the "
        "reward, so the group has spread.",
        departures="The judge is the world's (`judge_steps`); the paper asks a language model. A wrong answer in which "
        "the judge finds no wrong step gets c.",
        when_to_use="Hard tasks whose steps can be checked though the whole is rarely right.",
        seed=63,
        family="A2",
        nearest="grpo",
    ),
    reward=Chain((Verified(), WhereNoneRight(LeadingSteps()))),
)

_WORLD = {"selection.count": 8, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Where every attempt is wrong at first, rewarding right first steps in such groups solves tasks that "
    "GRPO does not.",
    source="arXiv 2505.11595, section 4; specification 63",
    experiment="judged_chain",
    observable="probability of an entirely right string after training",
    higher_is_better=True,
    smallest_effect=0.3,
    treated=Arm("spectral_po", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=150,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
    scope="Steps are symbols, and the judge does not err (a share of errors is an argument of the experiment).",
)
