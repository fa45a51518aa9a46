"""VADE: variance-aware dynamic sampling (arXiv 2511.18902).

theta_k ~ Beta(a_k, b_k) for every task;  the B tasks of largest theta_k (1 - theta_k) are asked;  then GRPO
(a, b) <- 1 + lam_glob ((a, b) - 1) for all;  then 1 + lam_loc ((a, b) - 1) + (right, wrong rows) for those asked
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role
from policyopt.methods.grpo import grpo
from policyopt.selection.scored import ThompsonTasks
from policyopt.selection.tasks import Selection

vade = replace(
    grpo,
    about=About(
        key="vade",
        title="VADE: Variance-Aware Dynamic Sampling via Online Sample-Level Difficulty Estimation for Multimodal RL",
        paper="arXiv 2511.18902",
        equation="Thompson draws of the solve rate, information gain, two-scale decay of the evidence",
        mechanism="Every task carries a Beta posterior over the share of right answers. A draw from each says how "
        "informative its group would be, the best are asked, and the posteriors are updated. Old evidence fades, "
        "because the policy moves; nothing is sampled to be thrown away.",
        departures="Information gain is taken as theta (1 - theta) and the decays as 0.99 and 0.9: the paper's own "
        "were not at hand (a survey of others gives theta (1 - theta)^2: `right_rows`). Evidence above the uniform "
        "prior fades, so posteriors stay proper. No KL term. The data (images) is not here; the method reads rewards "
        "alone.",
        when_to_use="Many tasks, most of them solved always or never, and rewards of 0 or 1.",
        seed=139,
        family="A2",
        nearest="grpo",
    ),
    selection=Selection(count=32, tasks=ThompsonTasks()),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {"selection.count": 32, "sampling.size": 8, "update.learning_rate": 0.01}

claim = Claim(
    statement="Tasks chosen by their posteriors give more groups with both outcomes than tasks in uniform order.",
    source="arXiv 2511.18902, abstract; specification 139",
    experiment="pool_of_difficulties",
    observable="share of groups with both outcomes, last 30 rounds",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("vade", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=150,
    scope="400 tasks of one step that learn apart from each other; the policy moves while it is trained.",
)
