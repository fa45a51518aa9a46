"""BNPO: Beta normalization policy optimization (arXiv 2506.02864).

A_i = (R_i - p) / f(p; alpha, beta),  p = mean_g R,  f the density of a Beta distribution
alpha = max(1, 1 + a / 3), beta = max(1, 1 + b / 3),  a, b of the Beta distribution with the moments of all p
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.credit.beta import BetaNormalised
from policyopt.methods.dapo import dapo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import SequenceSum

bnpo = replace(
    dapo,
    about=About(
        key="bnpo",
        title="BNPO: Beta Normalization Policy Optimization",
        paper="arXiv 2506.02864",
        equation="advantage, exponents of least variance, advantage decomposition; released code",
        mechanism="Advantages are divided by a density that follows how success rates are spread over the batch's "
        "tasks. Mean-centred advantages and GRPO's are the special cases of exponents 1 and 3/2; the exponents fitted "
        "to the batch make the advantages' mean square least.",
        departures="Where all success rates are alike the density is 1; the released code divides by 0 there. Rewards "
        "outside their range are centred as they are, their mean is clipped to it.",
        when_to_use="Binary rewards whose success rates drift a lot during training.",
        seed=52,
        family="A1",
        nearest="dapo",
        policies=("language", "tabular"),
    ),
    sampling=Group(size=16),
    reward=Verified(),
    credit=BetaNormalised(),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.28, dual_clip=10.0), SequenceSum()),),
)

_WORLD = {"selection.count": 32, "sampling.size": 16}

claim = Claim(
    statement="Where most tasks are rarely solved, the variance of the gradient, relative to its squared mean, is "
    "lower with the fitted density than with the exponents 3/2 that are GRPO's.",
    source="arXiv 2506.02864, section 4 (variance of the gradient estimate); specification 52",
    experiment="rarely_right",
    observable="ln of the total variance of the gradient over its squared mean, over batches at a fixed policy",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=Arm("bnpo", _WORLD),
    baseline=Arm("bnpo", {**_WORLD, "credit.alpha": 1.5, "credit.beta": 1.5}, label="GRPO's exponents"),
    rounds=150,
    scope="Tables; rates of success are Beta(1, 9) over 32 tasks. The advantages' mean square, in which the method is "
    "the best of all densities by construction, is in the notes: the gain there is partly a smaller step.",
)
