"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms", section 4).

    grad J = E[ sum_t grad log pi(a_t | s_t) (sum_{k >= t} gamma^(k-t) r_k - b) ]

One update on fresh rows, summed over a row's steps, with a moving-average baseline. No ratio, no clipping, no group.
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method, Term
from policyopt.credit.returns import ReturnToGo, UpdateBaseline
from policyopt.objective.surrogates import PolicyGradient
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import SequenceSum
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

reinforce = Method(
    about=About(
        key="reinforce",
        title="Simple statistical gradient-following algorithms for connectionist reinforcement learning",
        paper="Williams, Machine Learning 8 (1992) 229-256",
        equation="section 4, eq. 4, summed over time in section 5",
        mechanism="Raise the log-probability of every step in proportion to the reward that followed it, less a "
        "moving-average baseline that lowers the variance and leaves the expected gradient unchanged.",
        departures="The baseline is the bias-corrected average of earlier rounds; gradients are clipped by norm and "
        "applied by AdamW.",
        when_to_use="As the yardstick: unbiased, one update a batch. Prefer rloo when tasks differ in difficulty.",
    ),
    selection=Selection(count=32),
    sampling=Group(size=4),
    reward=Verified(),
    credit=ReturnToGo(),
    objective=(Term("policy", PolicyGradient(), SequenceSum()),),
    update=GradientSteps({"policy": AdamW()}),
    after=(UpdateBaseline(),),
)

claim = Claim(
    statement="A moving-average baseline reaches a higher success at equal samples when rewards are far from 0.",
    source="Williams 1992, section 4 (reinforcement baseline); policy gradients with a large constant in the reward",
    experiment="offset_rewards",
    observable="expected share of right symbols after training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("reinforce", {"selection.count": 6}),
    baseline=Arm("reinforce", {"selection.count": 6, "after": ()}, label="reinforce without a baseline"),
    rounds=60,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
)
