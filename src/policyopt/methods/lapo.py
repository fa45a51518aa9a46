"""LAPO: length-adaptive policy optimization (arXiv 2507.15758, eq. 1 to 8), two stages of GRPO.

1 (`lapo`): R_i = acc_i + w1 clip(1 - dist(n_i, [q30, q70]) / 100, 0, 1) for right rows, quantiles of the group's right
  lengths;  M[x] = their median
2 (`lapo_internalised`): rows are told n = M[x], which only falls;  R_i = acc_i (1 + w2 exp(-(n_i - n)^2 / (2 sigma^2)))
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Role
from policyopt.methods.grpo import grpo
from policyopt.reward.lengths import MEDIAN, NearTheMiddle, NearTheTarget
from policyopt.reward.parts import Verified
from policyopt.sampling.told import Remembered, ToldGroup

lapo = replace(
    grpo,
    about=About(
        key="lapo",
        title="LAPO: Internalizing Reasoning Efficiency via Length-Adaptive Policy Optimization",
        paper="arXiv 2507.15758",
        equation="eq. 1 to 5 (lengths and reward of the first stage), eq. 6 to 8 (second stage)",
        mechanism="First, right answers of a length that is usual among the group's right ones gain, and every task's "
        "median right length is remembered. Then that number is told at the beginning of the answer and right answers "
        "near it gain; it is lowered whenever the new median is shorter. The budget becomes part of the reasoning.",
        departures="Two methods, to be run one after the other: `lapo`, then `lapo:lapo_internalised`, which reads "
        "what the first remembered. No KL term. The target is told by a template of the prompt, not after a think tag. "
        "The release pays nobody where the right rows are of one length (point=False). A task without right rows in a "
        "round keeps its median, as released; the paper sets 4096.",
        when_to_use="Right answers that are shorter than the usual exist, and lengths should suit each task.",
        seed=72,
        family="A2",
        nearest="grpo",
    ),
    reward=Chain((Verified(), NearTheMiddle())),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

lapo_internalised = replace(
    lapo,
    about=replace(lapo.about, key="lapo_internalised", policies=("language", "tabular")),
    sampling=ToldGroup(size=8, name="budget", words=Remembered(MEDIAN, unknown=4096.0)),
    reward=Chain((Verified(), NearTheTarget())),
)
"""The second stage."""

_WORLD = {"selection.count": 24, "sampling.size": 8, "update.learning_rate": 0.02}

claim = Claim(
    statement="After both stages answers are shorter than GRPO's at the same accuracy.",
    source="arXiv 2507.15758, table 1; specification 72",
    experiment="remembered_targets",
    observable="expected length of an answer after training, told what the method tells",
    higher_is_better=False,
    smallest_effect=1.5,
    treated=Arm("lapo", {**_WORLD, "reward.near_the_middle.decay": 10.0}, {"second": "lapo:lapo_internalised"}),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=240,
    scope="Tables over lengths of at most 40, so the decay is 10 steps and sigma 5 instead of 100 and 120 tokens. Half "
    "of the rounds each stage; GRPO uses all of them and tells nothing.",
)
