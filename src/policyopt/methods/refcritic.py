"""RefCritic: critics that are paid for what their critiques lead to (arXiv 2507.15024).

R_i = 1[v_i = l] + w (1 / n) sum_j 1[y'_ij correct],  y'_ij ~ pi(. | x, y, c_i) by the frozen policy, if l = v_i = wrong
A_i = (R_i - mean R) / std R over the critiques of one solution;  clipped objective
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Given
from policyopt.methods.grpo import grpo
from policyopt.reward.parts import Verified
from policyopt.reward.refinement import RefinementReward

refcritic = replace(
    grpo,
    about=About(
        key="refcritic",
        title="RefCritic: Training Long Chain-of-Thought Critic Models with Refinement Feedback",
        paper="arXiv 2507.15024",
        equation="dual reward (judgment, refinement)",
        mechanism="A critic reads a problem and a solution and writes a verdict and advice. A right verdict is paid, "
        "and beside it how often a frozen model that reads the critique turns the wrong solution into a right one: "
        "advice has to be of use, which a verdict alone does not ask.",
        departures="instantiation: w = 1, refinements counted only where a wrong solution was rightly called wrong. "
        "The supervised cold start is sft; the phase of verdicts alone is `refcritic_verdicts`. Majority votes "
        "filtered by critiques are left out.",
        when_to_use="Critics whose critiques will be read by a model that corrects itself.",
        seed=247,
        family="B1",
        nearest="grpo",
        policies=("language",),
    ),
    reward=Chain((Verified(), RefinementReward())),
    models={**grpo.models, "solver": Given("the policy that refines its solutions by what the critic writes")},
)

refcritic_verdicts = replace(
    refcritic,
    about=replace(
        refcritic.about, key="refcritic_verdicts", equation="judgment reward alone", policies=("language", "tabular")
    ),
    reward=Verified(),
    models=grpo.models,
)
"""The first phase: verdicts alone."""

_WORLD = {"selection.count": 16, "constraint.kl.weight": 0.0, "update.learning_rate": 0.05}

claim = Claim(
    statement="Paid for refinements as well, the critic names the digit that is wrong, and refinements of a frozen "
    "solver become right more often than by a critic that is paid for verdicts alone.",
    source="arXiv 2507.15024, section 4 (critique and refinement); specification 247",
    experiment="wrong_digits",
    observable="share of wrong solutions that are right after refinement by the critic's advice, exact",
    higher_is_better=True,
    smallest_effect=0.3,
    treated=Arm("refcritic", _WORLD),
    baseline=Arm("refcritic", {**_WORLD, "reward.refinement_reward.weight": 0.0}, label="paid for verdicts alone"),
    rounds=80,
    scope="32 solutions of 5 digits in a table, half of them with one wrong digit; refinements of the solver are not "
    "counted as rows. A development seed was looked at before.",
)
