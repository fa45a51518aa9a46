"""TRPO: trust region policy optimization (arXiv 1502.05477, eq. 14 and appendix C).

maximise mean r_t A_t  subject to  mean_s KL( pi_old(. | s) || pi(. | s) ) <= delta
(F + damping) x = grad J ;  step = sqrt(2 delta / (x F x)) x / 2^k, the first k that keeps the limit and raises J
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Critic, Method, Role, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.objective.decoupled import RatioSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.update.trust_region import TrustRegion

trpo = Method(
    about=About(
        key="trpo",
        title="Trust Region Policy Optimization",
        paper="arXiv 1502.05477",
        equation="eq. 14 (surrogate and constraint), appendix C (conjugate gradients, line search)",
        mechanism="One step a round along the natural gradient, of the length at which the quadratic model of the "
        "divergence equals its limit, halved until the measured divergence is within it and the surrogate has risen: "
        "the change of the policy is bounded in distributions, whatever the parameters mean.",
        departures="Advantages are generalised advantages of a critic, whitened (single-path returns in the paper; the "
        "vine scheme is not here). The Fisher product uses all rows of the round. The critic is fitted by AdamW after "
        "the policy's step.",
        when_to_use="When a policy must not move further than a stated divergence, or its parameters are badly scaled; "
        "small models, as a step costs some twenty passes.",
        seed=92,
        family="A1",
        nearest="ppo",
    ),
    selection=Selection(count=128),
    sampling=Group(size=1),
    reward=Verified(),
    credit=GeneralisedAdvantage(gamma=0.99, lam=0.95),
    objective=(
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
    ),
    constraint=(Term("trust", ExactKL("old", "policy"), TokenMean(), limit=0.01),),
    update=TrustRegion(then=GradientSteps({"critic": AdamW(learning_rate=1e-3)}, epochs=10, minibatches=4)),
    roles={"policy": Role(grad=True, full=True), "old": Role(when="collected", full=True)},
    models={"critic": Critic()},
)

_WORLD = {
    "selection.count": 32,
    "credit.gamma": 0.9,
    "update.damping": 1e-5,
    "update.then.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="When parameters are badly scaled, the natural direction learns more at equal samples than the plain "
    "gradient's direction under the same limit.",
    source="arXiv 1502.05477, section 6 and appendix C; specification 92 (an ill-conditioned parameterisation)",
    experiment="badly_scaled_features",
    observable="(J - J of the first policy) / (best J - J of the first policy) after training, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("trpo", _WORLD),
    baseline=Arm("trpo", {**_WORLD, "update.iterations": 1}, label="along the plain gradient"),
    rounds=25,
    tuning=Tuning("constraint.limit", (0.003, 0.01, 0.03, 0.1)),
    scope="A random process with a linear softmax policy whose features have condition number 30; not control. One "
    "iteration of conjugate gradients leaves the gradient's direction and sets its length by the same limit.",
)
