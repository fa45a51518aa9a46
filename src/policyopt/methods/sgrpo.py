"""SGRPO: supergroup relative policy optimization (released code IDEA-XL/SGRPO).

R_gi = (1 - w) u_gi + w (D_g + [A_g]+ (w+_gi - 1) - [-A_g]+ (w-_gi - 1)) ;   A_g = D_g - mean of the other sets' D
w+- = K softmax(+-z / T), z the standardised leave-one-out contribution to D ;   A_gi = R_gi - leave-one-out mean

`sgrpo_advantages` adds (1 - w) (u - its leave-one-out mean) and w ([A_g]+ w+ - [-A_g]+ w-) instead.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Term
from policyopt.constraint.divergence import K3Loss
from policyopt.credit.groups import LeaveOneOut
from policyopt.credit.turns import AddedAdvantages
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.reward.sets import SetWorth
from policyopt.sampling.sets import SetsGroup
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average

sgrpo = replace(
    grpo,
    about=About(
        key="sgrpo",
        title="Pushing Biomolecular Utility-Diversity Frontiers with Supergroup Relative Policy Optimization",
        paper="released code IDEA-XL/SGRPO",
        equation="reward_sum and advantage_sum of the release",
        mechanism="Diversity belongs to a set, so several sets are sampled for a condition and compared with each "
        "other. What a set is better or worse than the others goes to its members by what the set would lose without "
        "each, beside every member's own utility.",
        departures="The coupled estimator of a discrete diffusion model's log-probability is not here: rows need exact "
        "ones. What diversity is the world says.",
        when_to_use="Generators whose samples must differ from each other.",
        seed=234,
        family="A1",
        nearest="rloo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=1),
    sampling=SetsGroup(sets=8, size=64),
    reward=Chain((Verified(), SetWorth(weight=0.9))),
    credit=LeaveOneOut(),
    objective=(Term("policy", ClippedSurrogate(0.5, 0.5), TokenMean()),),
    constraint=(Term("kl", K3Loss(), TokenMean(), weight=0.005),),
    after=(Average("reference", decay=0.4, every=64),),
)

sgrpo_advantages = replace(
    sgrpo,
    about=replace(sgrpo.about, key="sgrpo_advantages", equation="advantage_sum of the release"),
    reward=Chain((Verified(), SetWorth(into="advantage"))),
    credit=Chain((LeaveOneOut(), AddedAdvantages({"advantage": 0.1, "advantage:set": 0.9}))),
)

_WORLD = {"sampling.sets": 4, "sampling.size": 8, "constraint": (), "after": ()}

claim = Claim(
    statement="With the diversity of sets in the reward the policy keeps more of the equally good modes than with "
    "utility alone.",
    source="released code IDEA-XL/SGRPO; specification 234",
    experiment="equally_good_modes",
    observable="good modes with a probability above 0.05 after training, of 6",
    higher_is_better=True,
    smallest_effect=1.0,
    treated=Arm("sgrpo", _WORLD),
    baseline=Arm("sgrpo", {**_WORLD, "reward.set_worth.weight": 0.0}, label="utility alone (w = 0)"),
    rounds=150,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="A bandit of 36 arms in place of molecules. Score of tuning: expected utility.",
)
