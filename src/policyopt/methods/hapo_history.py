"""HAPO: history-aware policy optimization (arXiv 2505.11225).

R_i = 1[right] + w l_i;  l_i = max(f, -c) if right, min(f, 0) if wrong;  f = cos(pi n_i / (2 h)) below 2 h, else -1
h: the task's shortest right length of earlier rounds (none: l_i = 0);  then GRPO.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Role
from policyopt.methods.grpo import grpo
from policyopt.reward.lengths import AgainstHistory
from policyopt.reward.parts import Verified

hapo_history = replace(
    grpo,
    about=About(
        key="hapo_history",
        title="HAPO: Training Language Models to Reason Concisely via History-Aware Policy Optimization",
        paper="arXiv 2505.11225",
        equation="length reward against the task's history",
        mechanism="Every task remembers its shortest right answer so far. Answers are rewarded for being shorter than "
        "that and charged for being longer, right ones by so little that being right stays worth more, wrong ones "
        "never rewarded. The record falls as the policy gets shorter, and the target with it.",
        departures="No KL term. A row is right if its grade exceeds 0.5.",
        when_to_use="Answers are longer than they need be, and what is needed differs by task and is not known. One "
        "lucky short answer sets a task's record for good: use mode=mean where grades are noisy.",
        seed=109,
        family="A2",
        nearest="grpo",
    ),
    reward=Chain((Verified(), AgainstHistory())),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {"selection.count": 24, "sampling.size": 8, "update.learning_rate": 0.06}

claim = Claim(
    statement="Against the history of each task answers become much shorter than with GRPO at the same accuracy.",
    source="arXiv 2505.11225, table 1; specification 109",
    experiment="concise_answers",
    observable="expected length of an answer after training",
    higher_is_better=False,
    smallest_effect=5.0,
    treated=Arm("hapo_history", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=200,
    scope="Tables over lengths, no lucky answers below the need.",
)
