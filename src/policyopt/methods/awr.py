"""Advantage-weighted regression (AWR, arXiv 1910.00177, algorithm 1), on recorded episodes.

A_t  = sum_k (gamma lam)^(k-t) (r_k + gamma V_{k+1} - V_k)            (returns by TD(lambda), less the value)
L_V  = (V(s) - G)^2 / 2,   G = A + V                                  (eq. 8)
L_pi = -min(exp(A / beta), 20) log pi(a|s)                            (eq. 10)
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Critic, Method, Term
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.objective.value import SquaredValueError
from policyopt.objective.weighted import AdvantageWeighted
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

awr = Method(
    about=About(
        key="awr",
        title="Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning",
        paper="arXiv 1910.00177",
        equation="eq. 8 (value), eq. 10 (policy), algorithm 1",
        mechanism="Two regressions: a value of the recorded behaviour, and imitation of its actions weighted by how "
        "much better than that value they turned out.",
        departures="Offline: the store is a recording of episodes. Advantages are whitened over a round, so that the "
        "temperature has no unit, as in the authors' code. Adam instead of SGD with momentum.",
        when_to_use="Recordings of mixed quality, with whole episodes; a world whose tasks are episodes. Where good "
        "pieces of bad episodes must be joined, iql.",
        nearest="bc",
        policies=("control",),
    ),
    selection=Selection(count=64),
    sampling=Recorded(),
    reward=Verified(),
    credit=GeneralisedAdvantage(gamma=0.99, lam=0.95),
    objective=(
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
        Term("policy", AdvantageWeighted(temperature=1.0, cap=20.0), TokenMean()),
    ),
    update=GradientSteps(
        {"critic": AdamW(learning_rate=1e-3), "policy": AdamW(learning_rate=3e-4)},
        minibatches=32,
        unit="step",
        clip_norm=None,
    ),
    models={"critic": Critic()},
)

_WORLD = {
    "selection.count": 50,
    "update.minibatches": 10,
    "credit.gamma": 0.9,
    **{f"update.optimizers.{name}.learning_rate": 0.03 for name in ("critic", "policy")},
}

claim = Claim(
    statement="Weighting imitation by advantages beats plain imitation on recordings of mixed quality.",
    source="arXiv 1910.00177, section 5.3 (offline data sets, against behaviour cloning)",
    experiment="recorded_process",
    observable="share of the way from who recorded to the best policy",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("awr", _WORLD, {"skill": 0.3}),
    baseline=Arm(
        "bc",
        {"selection.count": 50, "update.minibatches": 10, "update.optimizers.policy.learning_rate": 0.03},
        {"skill": 0.3},
    ),
    rounds=40,
)
