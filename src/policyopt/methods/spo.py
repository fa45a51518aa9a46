"""SPO: self-play preference optimization (arXiv 2401.04056).

o_1..o_B ~ pi ;   R_i = 1/(B - 1) sum_{j != i} P(o_i > o_j) ;   any RL step on R, here A_i = R_i - mean R = R_i - 1/2
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role
from policyopt.credit.groups import GroupCentred
from policyopt.methods.rloo import rloo
from policyopt.reward.parts import Verified
from policyopt.reward.wins import WinRate
from policyopt.sampling.opponents import EARLIER, GroupAgainst
from policyopt.sampling.samplers import Group
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

spo = replace(
    rloo,
    about=About(
        key="spo",
        title="A Minimaximalist Approach to Reinforcement Learning from Human Feedback",
        paper="arXiv 2401.04056",
        equation="section 3 (minimax winner by self-play), algorithm 2",
        mechanism="The policy that no other beats is found by one learner playing itself: a row's reward is the share "
        "of the group's other rows that it is preferred to. Rewards of a group have the mean 1/2 exactly, so no "
        "baseline is fitted, nor a reward model.",
        departures="The RL step is RLOO's clipped one (the paper: PPO or SAC). `spo_queue` compares with rows of "
        "earlier rounds instead of those of the group. The guarantee is of the average policy, which is measured.",
        when_to_use="A rater of pairs, noisy or intransitive, and no wish for a reward model.",
        seed=152,
        family="B1",
        nearest="rloo",
    ),
    sampling=Group(size=10),
    reward=WinRate(),
    credit=GroupCentred(),
    roles={"old": Role(when="collected")},
    models={},
)

spo_queue = replace(
    spo,
    about=replace(spo.about, key="spo_queue", equation="algorithm 2 (queue of trajectories)"),
    sampling=GroupAgainst(size=5, opponents=5, by=EARLIER),
    reward=WinRate(opponents=True),
)

_WORLD = {"selection.count": 64, "update": GradientSteps({"policy": SGD(2.0)}, clip_norm=None)}
_AVERAGE = {"iterate": "average"}

claim = Claim(
    statement="On cyclic preferences the average policy of self-play is nearly unexploitable; with the rewards of the "
    "best Bradley-Terry model in place of win rates the same updates end at one answer.",
    source="arXiv 2401.04056, sections 3 and 4.2 (intransitive preferences); specification 152",
    experiment="cyclic_preferences",
    observable="exploitability of the average policy (win rate of the best answer to it, less 1/2), exact",
    higher_is_better=False,
    smallest_effect=0.1,
    threshold=0.06,
    treated=Arm("spo", _WORLD, _AVERAGE),
    baseline=Arm("spo", {**_WORLD, "reward": Verified()}, _AVERAGE, label="rewards of a Bradley-Terry model"),
    rounds=300,
    scope="4 cycles of 3 answers per seed; tables. The last policy still moves (its exploitability is in the notes).",
)
