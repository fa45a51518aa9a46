"""A2C: synchronous advantage actor-critic (A3C, arXiv 1602.01783, section 4, with one learner).

    grad J = E[ grad log pi(a_t | s_t) A_t ] + beta grad H(pi(. | s_t)),   A_t = sum_k (gamma lam)^(k-t) delta_k
    L_V = (V - G)^2 / 2,   G = A + V

One update on every round's fresh rows. lam = 1: A is the n-step return less V, n up to the end of the row.
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Critic, Method, Role, Term
from policyopt.constraint.divergence import Entropy
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.objective.surrogates import PolicyGradient
from policyopt.objective.value import SquaredValueError
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import RMSprop

a2c = Method(
    about=About(
        key="a2c",
        title="Asynchronous Methods for Deep Reinforcement Learning",
        paper="arXiv 1602.01783",
        equation="section 4 (asynchronous advantage actor-critic), algorithm S3",
        mechanism="The plain policy gradient with a learned value as baseline and as the worth of what follows a row's "
        "end, one update on fresh rows, and an entropy bonus against early certainty. No ratio and no clipping.",
        departures="One synchronous learner (the published methods' later form); policy and critic are two models with "
        "two optimisers; RMSprop's epsilon stands outside the root. On control, short fragments of many environments "
        "(5 steps, 16 environments) are the published setting.",
        when_to_use="As the yardstick of on-policy control: the cheapest update; ppo when rows should be used more "
        "than once.",
        nearest="ppo",
    ),
    selection=Selection(count=128),
    sampling=Group(size=1),
    reward=Verified(),
    credit=GeneralisedAdvantage(gamma=0.99, lam=1.0, whitened=False),
    objective=(
        Term("policy", PolicyGradient(), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
    ),
    constraint=(Term("entropy", Entropy(), TokenMean(), weight=-0.01),),
    update=GradientSteps({"policy": RMSprop(), "critic": RMSprop()}, clip_norm=0.5),
    roles={"policy": Role(grad=True, full=True)},
    models={"critic": Critic()},
)

_WORLD = {"selection.count": 16, "credit.gamma": 1.0}

claim = Claim(
    statement="Where states differ in value, a learned value as baseline reaches a higher return at equal samples than "
    "one moving average.",
    source="arXiv 1602.01783, section 4 (advantage actor-critic)",
    experiment="random_process",
    observable="(J - J of the uniform policy) / (best J - J of the uniform policy) after training, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("a2c", {**_WORLD, "update.optimizers.critic.learning_rate": 0.1}),
    baseline=Arm("reinforce", {"selection.count": 16, "sampling.size": 1}),
    rounds=40,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.01, 0.03, 0.1, 0.3)),
    scope="A random process written as a table, with an exact answer; not control. reinforce sums over a row's steps "
    "and a2c takes their mean, which the tuned learning rates absorb.",
)
