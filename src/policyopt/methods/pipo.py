"""PIPO: policy improvement reinforcement learning (arXiv 2604.00860).

xi_t = clip(mean R_t - mean of the last K means, -5, 5) / their std ;   phi(x) = x if x >= 0 else lambda x
a_i = G A_i / (sum_g |A| + 1e-6) ;   one clipped step on batch t - 1 with advantages clip(phi(xi_t) a_i, -10, 10)
then the usual update on batch t
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.update.improving import PolicyImprovement

pipo = replace(
    grpo,
    about=About(
        key="pipo",
        title="Policy Improvement Reinforcement Learning",
        paper="arXiv 2604.00860",
        equation="eq. 7-9 (improvement signal), eq. 10 and 11 (group attribution, step on the last batch), algorithm 1",
        mechanism="Every batch of fresh rows says whether the update before it helped. If the mean reward rose against "
        "that of the last rounds, the last batch is used once more in the same direction, if it fell, in the opposite "
        "one with a small weight; then the usual update follows.",
        departures="The step on the last batch is the ordinary clipped surrogate; the release takes the minimum before "
        "it multiplies by the signal, which clips the wrong side of negative coefficients. lambda is the paper's 0.1 "
        "(0 in the release's settings). The deviation of past means divides by n - 1 (by n in the release, ddof=0). "
        "The cuts at 5 and 10 are the release's.",
        when_to_use="Rewards that are wrong for whole rounds now and then; otherwise it is mostly a longer step.",
        seed=241,
        family="A1",
        nearest="grpo",
    ),
    update=PolicyImprovement(grpo.update, past=8, negative=0.1),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="With rewards that are turned round in one round of ten, learning from the improvement between rounds "
    "attains more reward than its base.",
    source="arXiv 2604.00860, section 4; specification 241",
    experiment="rounds_turned_round",
    observable="expected true reward, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.01,
    treated=Arm("pipo", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "update.epochs": 2}, label="grpo with two steps a round"),
    rounds=100,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
    scope="Bandits of 12 arms, 16 tasks. The baseline takes two steps a round, as the treated arm does.",
)
