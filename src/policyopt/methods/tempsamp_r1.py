"""TempSamp-R1: one attempt of a group replaced by the ground truth, rewards shaped (arXiv 2509.18056).

f(R) = thr + 0.01 log(R - thr + 1) for R >= thr,  thr - (exp(alpha (thr - R)) - 1) / (exp(alpha) - 1) below
A_i = (f(R_i) - mean f) / (std f + epsilon) over own rows and the ground truth; GRPO's clipped loss on all of them
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Role
from policyopt.credit.groups import GroupStandardised
from policyopt.methods.grpo import grpo
from policyopt.reward.parts import Verified
from policyopt.reward.shaped import AsymmetricShaping
from policyopt.sampling.beside import GroupAndRecorded

tempsamp_r1 = replace(
    grpo,
    about=About(
        key="tempsamp_r1",
        title="TempSamp-R1: Effective Temporal Sampling with Reinforcement Fine-Tuning for Video LLMs",
        paper="arXiv 2509.18056",
        equation="mixed group, non-linear shaping",
        mechanism="The ground truth stands in every group as one more row, so that at least one is good. Its reward "
        "would make all own rows look bad; the shaping compresses rewards above a threshold and spreads those below.",
        departures="The method is sampling and shaping. The intersection over union is the world's grade; video, the "
        "format reward and the two stages (with and without written reasoning) are not here. Epsilon is 1e-4, KL is "
        "off. The ground truth's ratio is against the policy that began the update, by teacher forcing. The paper's "
        "other two ways: CappedGiven (its reward), OfOwnRows(best=1.2) (its advantage).",
        when_to_use="Answers that are numbers or intervals, a ground truth for each, and own attempts that rarely hit.",
        seed=158,
        family="A1",
        nearest="grpo",
    ),
    sampling=GroupAndRecorded(size=7),
    reward=Chain((Verified(), AsymmetricShaping())),
    credit=GroupStandardised(epsilon=1e-4),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {"selection.count": 8, "update.clip_norm": None, "update.learning_rate": 0.3}

claim = Claim(
    statement="With the ground truth in every group, the policy reaches a mean intersection over union of 0.5 in "
    "fewer rows than GRPO.",
    source="arXiv 2509.18056, section 4.3 (ablation of off-policy rows and shaping); specification 158",
    experiment="interval_of_a_signal",
    observable="rows, own and recorded, until the expected intersection over union is 0.5",
    higher_is_better=False,
    smallest_effect=300.0,
    treated=Arm("tempsamp_r1", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "sampling.size": 8, "constraint": ()}, label="grpo without KL"),
    rounds=60,
    budget="cost",
    scope="Eight tables over 20 x 20 start and end bins in place of video. The shaping's own share of the effect is "
    "small at this scale.",
)
