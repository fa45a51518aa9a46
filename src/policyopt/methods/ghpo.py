"""GHPO: adaptive guidance (arXiv 2507.10628).

for w in 0, 0.25, 0.5, 0.75: sample o_1..o_G ~ pi_old(. | x, first w of the solution); stop if one is right
GRPO on the last group, under the prompt it was sampled from
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.sampling.told import HintedGroup

ghpo = replace(
    grpo,
    about=About(
        key="ghpo",
        title="GHPO: Adaptive Guidance for Stable and Efficient LLM Reinforcement Learning",
        paper="arXiv 2507.10628",
        equation="adaptive prompt refinement of groups without a right row, shares 1/4, 1/2, 3/4",
        mechanism="If all attempts at a task fail, it is asked again with the first quarter of a reference solution in "
        "its prompt, then half, then three quarters, until one succeeds. The group trained on is the last, under its "
        "own prompt, so hard tasks teach instead of giving zero gradients, and tasks within reach stay as they are.",
        departures="Shares are of the solution's tokens or characters, as the world's template counts them. A group is "
        "solved if one total reward exceeds `right`: give the accuracy alone as reward, or raise `right` above a bonus "
        "for form. The objective has a KL term; the paper's runs have none. Its optional first 20 steps of GRPO are a "
        "stage of the run.",
        when_to_use="Tasks beyond the policy's reach whose solutions are known.",
        seed=53,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    sampling=HintedGroup(size=8),
)

_WORLD = {
    "selection.count": 4,
    "sampling.size": 8,
    "update.learning_rate": 0.1,
    "constraint.kl.weight": 0.0,
}

claim = Claim(
    statement="With hints for groups that all fail, locks that chance hardly ever opens are opened without hints after "
    "far fewer rows than with GRPO.",
    source="arXiv 2507.10628, section 4; specification 53",
    experiment="hinted_lock",
    observable="rows generated until the chance of opening a lock without hint is 0.8 (9600 and more: never)",
    higher_is_better=False,
    smallest_effect=2000.0,
    treated=Arm("ghpo", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=300,
    budget="cost",
    scope="Tables by lock and place; hints are the first symbols of the combination. No KL term. Rows of the attempts "
    "that failed before a hint count.",
)
