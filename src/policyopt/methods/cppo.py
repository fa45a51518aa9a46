"""CPPO: completion pruning policy optimization (arXiv 2503.22342).

A_i from the whole group ;   of each group only the max(1, floor(G (1 - P))) rows of largest |A_i| are trained on ;
loss of GRPO over them ;   B / (1 - P) tasks a round, so that an update sees as many rows (dynamic allocation)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.selection.pruning import LargestAdvantages
from policyopt.selection.tasks import Selection

cppo = replace(
    grpo,
    about=About(
        key="cppo",
        title="CPPO: Accelerating the Training of Group Relative Policy Optimization-Based Reasoning Models",
        paper="arXiv 2503.22342",
        equation="pruned objective, dynamic completion allocation",
        mechanism="Rows of small |advantage| move the policy little but cost as much as others. After the advantages "
        "are known, only those of largest |advantage| go through the expensive passes, and the room that is freed is "
        "filled with rows of further tasks.",
        departures="Allocation is a larger number of tasks a round (64 for 32 at P = 1/2), not a repacking of device "
        "memory. What the release calls its metric names what is removed; here `pick` names what is kept. Rows are "
        "ranked within their task, as in the paper; `by` ranks those of the round, as a release does.",
        when_to_use="Large groups, where sampling is cheap and updates are not.",
        seed=97,
        family="A2",
        nearest="grpo",
    ),
    selection=Selection(count=64, rows=LargestAdvantages(keep=0.5)),
    sampling=replace(grpo.sampling, size=16),
    update=replace(grpo.update, epochs=2),
)

_WORLD = {"selection.count": 8, "sampling.size": 16, "constraint.kl.weight": 0.0, "update.learning_rate": 0.1}

claim = Claim(
    statement="With three quarters of the rows pruned, 85 % is reached with fewer rows through the backward pass than "
    "with all of them.",
    source="arXiv 2503.22342, section 5 (speed at equal accuracy); specification 97",
    experiment="work_to_a_level",
    observable="rows through the backward pass until 85 % of the symbols are right",
    higher_is_better=False,
    smallest_effect=500.0,
    treated=Arm("cppo", {**_WORLD, "selection.keep": 0.25}),
    baseline=Arm("grpo", {**_WORLD, "update.epochs": 2}),
    rounds=40,
    budget="cost",
    scope="Rows that are sampled cost nothing here. Part of the gain is step size: the mean over fewer rows of larger "
    "|advantage| is a longer step.",
)
