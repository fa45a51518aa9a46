"""MMR1: variance-aware sampling (arXiv 2509.21268).

VPS(x) = lam_o p (1 - p) + lam_d TDS;  floor(lam B) tasks ~ VPS(x) / sum VPS, the others uniform;  then GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.selection.scored import PromisingTasks
from policyopt.selection.tasks import Selection

mmr1_vas = replace(
    grpo,
    about=About(
        key="mmr1_vas",
        title="MMR1: Enhancing Multimodal Reasoning with Variance-Aware Sampling and Open Resources",
        paper="arXiv 2509.21268",
        equation="variance promotion score, mixture of weighted and uniform draws",
        mechanism="The variance of a group's rewards bounds its gradient from below, so part of every batch is drawn "
        "by how mixed a task's outcomes are (and, optionally, how different its traces); the rest uniformly, so that "
        "every task is seen again. Scores are renewed every few rounds.",
        departures="Outcome score alone, as released; the diversity of traces is an option (distinct runs or edit "
        "distance; self-BLEU is left out). Scores come from the rows that training samples anyway, instead of from "
        "passes over the data. The method is the selection; images, data and the 7B model are not here.",
        when_to_use="Task sets of mixed difficulty, when dropping groups after sampling is too expensive.",
        seed=161,
        family="A2",
        nearest="grpo",
    ),
    selection=Selection(count=32, tasks=PromisingTasks()),
    constraint=tuple(replace(term, weight=0.01) for term in grpo.constraint),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "update.learning_rate": 0.02, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Drawing half of the tasks by the variance of their outcomes teaches the tasks of medium difficulty "
    "more than uniform draws do, at equal samples.",
    source="arXiv 2509.21268, section 4 and theorem 1; specification 161",
    experiment="medium_tasks",
    observable="chance of a right answer on tasks of medium difficulty after training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("mmr1_vas", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=150,
    scope="200 tasks of one step: half nearly solved, 30% unsolvable, 20% begun at 0.2 to 0.5. No KL term.",
)
