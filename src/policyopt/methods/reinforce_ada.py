"""Reinforce-Ada: adaptive sampling for Reinforce-style training (arXiv 2510.04996, algorithm 1).

up to M rounds of n_r attempts; a task leaves with n/2 right and n/2 wrong rows (or one right);  a balanced n are kept
A_i = R_i - mean of R over all rows drawn for the task;   L = -1/sum|o| sum min(r A, clip(r, 1 - e_low, 1 + e_high) A)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.credit.subgroups import AgainstRate
from policyopt.methods.dapo import dapo
from policyopt.reward.parts import Verified
from policyopt.sampling.adaptive import AdaptiveGroup
from policyopt.selection.tasks import Selection

reinforce_ada = replace(
    dapo,
    about=About(
        key="reinforce_ada",
        title="Reinforce-Ada: An Adaptive Sampling Framework for Reinforce-Style LLM Training",
        paper="arXiv 2510.04996",
        equation="algorithm 1 (successive elimination), global statistics of the baseline",
        mechanism="Easy and hard tasks give groups of one outcome, which teach nothing. Sampling goes on, task by "
        "task, until both outcomes are there or a limit is reached; a balanced group of fixed size is trained on, "
        "against the success rate over everything that was sampled.",
        departures="The baseline is the mean reward over all rows drawn, which for rewards of 0 and 1 is the paper's "
        "rate. Tasks that never get both outcomes stay in, with advantages of 0.",
        when_to_use="Sampling is cheap against updates, and rewards are 0 or 1.",
        seed=168,
        family="A2",
        nearest="dapo",
    ),
    selection=Selection(count=512),
    sampling=AdaptiveGroup(size=4, per_round=8, rounds=4),
    reward=Verified(),
    credit=AgainstRate(),
    update=replace(dapo.update, minibatches=4),
)

_WORLD = {"selection.count": 25, "update.learning_rate": 0.05, "update.minibatches": 1}

claim = Claim(
    statement="With groups of four rows, adaptive sampling reaches a level of success in fewer updates than GRPO.",
    source="arXiv 2510.04996, figure 1 and table 1; specification 168",
    experiment="updates_to_success",
    observable="updates until the mean chance of a right answer is 0.9",
    higher_is_better=False,
    smallest_effect=10.0,
    treated=Arm("reinforce_ada", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "sampling.size": 4, "constraint.kl.weight": 0.0}),
    rounds=130,
    budget="cost",
    scope="The cost is updates on groups of equal size, as in the paper's comparison; the rows that were generated are "
    "in the notes. Tasks of one step that learn apart from each other.",
)
