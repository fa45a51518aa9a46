"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms", section 4).

    grad J = E[ sum_t grad log pi(a_t | s_t) (sum_{k >= t} gamma^(k-t) r_k - b) ]

One update on fresh rows, summed over a row's steps, with a moving-average baseline. No ratio, no clipping, no group.
"""

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
