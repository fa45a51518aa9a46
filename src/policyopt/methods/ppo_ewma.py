"""PPO-EWMA: batch size-invariant PPO (arXiv 2110.00641).

    L = mean max( -A pi / b', -A clip(pi / p, 1 - e, 1 + e) p / b' ),  b' = max(b, sg(pi) / c_max)
    after every update: W <- d W + 1 ;  theta_p <- theta_p + (theta - theta_p) / W

b is the behaviour policy as recorded, p the proximal policy of averaged weights. Batch / c needs learning rate /
sqrt(c) (Adam), and mean ages d / (1 - d) of both averages, counted in rounds, times c.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Copy, Critic, Method, Role, Term
from policyopt.constraint.divergence import Entropy, K2Loss
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.credit.running import RunningStandardised
from policyopt.objective.decoupled import DecoupledSurrogate, RatioSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averages import CorrectedAverage
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

ppo_ewma = Method(
    about=About(
        key="ppo_ewma",
        title="Batch size-invariance for policy optimization",
        paper="arXiv 2110.00641",
        equation="decoupled clipped objective, proximal policy as a moving average of weights, algorithm 1",
        mechanism="PPO's old policy has two jobs. Here the behaviour policy corrects for who took the steps, and the "
        "change is bounded around a bias-corrected moving average of the weights over updates, whose age does not "
        "depend on the batch. Advantages are normalised by moments that outlive a round, for the same reason.",
        departures="Policy and critic are two models with two optimisers, so c_v is the critic's learning rate, and "
        "the average is of the policy alone. One epoch.",
        when_to_use="When batch sizes change between machines, or rows are stale: the bound does not depend on who "
        "sampled them.",
        seed=90,
        family="A1",
        nearest="ppo",
    ),
    selection=Selection(count=128),
    sampling=Group(size=1),
    reward=Verified(),
    credit=Chain((GeneralisedAdvantage(gamma=0.999, lam=0.95, whitened=False), RunningStandardised())),
    objective=(
        Term("policy", DecoupledSurrogate(0.2, 0.2, cap=100.0), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
    ),
    constraint=(Term("entropy", Entropy(), TokenMean(), weight=-0.01),),
    update=GradientSteps(
        {"policy": AdamW(learning_rate=5e-4), "critic": AdamW(learning_rate=5e-4)},
        minibatches=8,
        after_step=(CorrectedAverage("proximal", decay=0.889),),
    ),
    roles={"policy": Role(grad=True, full=True), "proximal": Role("proximal")},
    models={"proximal": Copy(), "critic": Critic()},
)

ppo_ewma_kl = replace(
    ppo_ewma,
    about=replace(ppo_ewma.about, key="ppo_ewma_kl", equation="decoupled objective with a KL penalty, algorithm 1"),
    objective=(
        Term("policy", RatioSurrogate("behaviour", cap=100.0), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
    ),
    constraint=(*ppo_ewma.constraint, Term("proximity", K2Loss(), TokenMean(), weight=1.0)),
    # The estimator calls what it is measured from the reference.
    roles={"policy": Role(grad=True, full=True), "reference": Role("proximal")},
)
"""The variant with a penalty, beta (log pi - log p)^2 / 2, in place of the clip."""

_WORLD = {"selection.count": 64, "update.optimizers.critic.learning_rate": 0.05}

claim = Claim(
    statement="With the published adjustments, a batch of a quarter learns the same as a function of the samples used; "
    "PPO with the same learning-rate adjustment does not.",
    source="arXiv 2110.00641, batch size-invariance of PPO-EWMA; specification 90",
    experiment="two_batch_sizes",
    observable="mean gap between the learning curves of the two batch sizes, share of right symbols, exact",
    higher_is_better=False,
    smallest_effect=0.02,
    treated=Arm("ppo_ewma", {**_WORLD, "constraint.entropy.weight": 0.0}),
    baseline=Arm("ppo", {**_WORLD, "constraint.kl.weight": 0.0, "update.epochs": 1, "update.minibatches": 8}),
    rounds=30,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1, 0.3)),
    scope="Strings, not control. Score of tuning: mean share of right symbols over both curves.",
)
