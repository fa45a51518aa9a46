"""Nash-MD: Nash learning from human feedback (arXiv 2312.00886, section 7).

y ~ pi, y' ~ mixture prop. to pi^(1-b) mu^b step by step ;   p = P(y > y')
L = -(p - 1/2) log pi(y) + tau sum_t sg(log pi_t - log mu_t) log pi_t ;   `nash_ema`: y' ~ an average of past policies
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Role, Term
from policyopt.constraint.divergence import K2Loss
from policyopt.methods.reinforce import reinforce
from policyopt.policies.blended import Mixture
from policyopt.reward.parts import Verified
from policyopt.reward.wins import WinRate
from policyopt.sampling.opponents import GroupAgainst
from policyopt.update.averaging import SequenceSum
from policyopt.update.following import Average
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

nash_md = replace(
    reinforce,
    about=About(
        key="nash_md",
        title="Nash Learning from Human Feedback",
        paper="arXiv 2312.00886",
        equation="section 7 (Nash-MD-PG); reference implementation: trl, experimental nash_md",
        mechanism="The policy plays for the preference of its answers over those of a geometric mixture of itself and "
        "the reference, under a KL penalty. The mixture, not the last policy, as the opponent makes the last iterate "
        "settle instead of cycling. No reward model is fitted, so preferences may be intransitive.",
        departures="The KL penalty is the sum over steps of the squared log-ratio over 2, whose gradient is the "
        "paper's and trl's product per step: it leaves out how a step changes the distance of later ones (exact for "
        "one step). The preference is asked of the world, once per pair.",
        when_to_use="Comparisons that no score explains; the last policy is to be used, not an average.",
        seed=230,
        family="B1",
        nearest="reinforce",
        policies=("language", "control", "tabular"),
    ),
    sampling=GroupAgainst(size=1, opponents=1, by="mixture"),
    reward=WinRate(opponents=True, level=0.5),
    constraint=(Term("kl", K2Loss(), SequenceSum(), weight=0.1),),
    roles={"reference": Role("reference", when="collected")},
    models={"reference": Copy(), "mixture": Mixture(share=0.5)},
    after=(),
)

nash_ema = replace(
    nash_md,
    about=replace(nash_md.about, key="nash_ema", equation="section 7 (Nash-EMA-PG)", policies=About.policies),
    sampling=GroupAgainst(size=1, opponents=1, by="average"),
    models={"reference": Copy(), "average": Copy()},
    after=(Average("average", decay=0.9),),
)

_WORLD = {
    "selection.count": 512,
    "constraint.kl.weight": 0.05,
    "update": GradientSteps({"policy": SGD(3.0)}, clip_norm=None),
    "models": {"reference": Copy(), "mixture": Mixture(share=0.125)},
}

claim = Claim(
    statement="On cyclic preferences the last policy of Nash-MD is nearly unexploitable; the same policy gradient on "
    "the rewards of the best Bradley-Terry model is beaten by one answer far more often than half of the time.",
    source="arXiv 2312.00886, sections 3 and 8; specification 230",
    experiment="cyclic_preferences",
    observable="exploitability of the last policy (win rate of the best answer to it, less 1/2), exact",
    higher_is_better=False,
    smallest_effect=0.1,
    threshold=0.06,
    treated=Arm("nash_md", _WORLD),
    baseline=Arm("nash_md", {**_WORLD, "reward": Verified()}, label="rewards of a Bradley-Terry model"),
    rounds=200,
    scope="4 cycles of 3 answers per seed; tables. tau 0.05 for both arms, b 0.125; with the default b of 0.5 the "
    "policy stays nearer to the reference.",
)
