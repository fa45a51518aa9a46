"""PPO: proximal policy optimization (arXiv 1707.06347, eq. 7, 9, 11 and 12).

A_t = sum_k (gamma lam)^(k-t) (r_k + gamma V_{k+1} - V_k) ;   G_t = A_t + V_t
L = -mean min(r A, clip(r, 1 - e, 1 + e) A) + c1 mean (V - G)^2 / 2 + beta KL(pi || pi_ref)
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Copy, Critic, Method, Role, Term
from policyopt.constraint.divergence import KLToReference
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

ppo = Method(
    about=About(
        key="ppo",
        title="Proximal Policy Optimization Algorithms",
        paper="arXiv 1707.06347",
        equation="eq. 7 (clipped surrogate), eq. 11-12 (generalised advantage), eq. 9 (value loss)",
        mechanism="Several epochs of minibatches on the same rows with a ratio clipped around 1, so that there is no "
        "gain from leaving the trust interval. Advantages come from a learned critic.",
        departures="Policy and critic are two models with two optimisers, so c1 is the critic's learning rate; "
        "advantages are whitened over the round; no entropy bonus; gamma is 1, for texts (the paper's tasks have "
        "0.99). KL to the initial policy is a term of its own.",
        when_to_use="Rewards along the way, long horizons, or one attempt a task: where a critic beats a group.",
        seed=60,
        family="A1",
        nearest="grpo",
    ),
    selection=Selection(count=128),
    sampling=Group(size=1),
    reward=Verified(),
    credit=GeneralisedAdvantage(gamma=1.0, lam=0.95),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
    ),
    constraint=(Term("kl", KLToReference(), TokenMean(), weight=0.01),),
    update=GradientSteps({"policy": AdamW(), "critic": AdamW(learning_rate=1e-5)}, epochs=4, minibatches=4),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    models={"reference": Copy(), "critic": Critic()},
)

_WORLD = {"selection.count": 32, "update.optimizers.critic.learning_rate": 0.05}

claim = Claim(
    statement="Clipping bounds how far one round's updates move the policy.",
    source="arXiv 1707.06347, section 3; specification 60",
    experiment="largest_change",
    observable="largest KL(before || after) of a round, mean over states (nats)",
    higher_is_better=False,
    smallest_effect=0.05,
    treated=Arm("ppo", _WORLD),
    baseline=Arm(
        "ppo", {**_WORLD, "objective.clip_low": 1.0, "objective.clip_high": 1e9}, label="ppo without clipping"
    ),
    rounds=30,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1, 0.3)),
    scope="Strings, not control: the specification's CartPole case is not part of this check. Each arm uses the "
    "learning rate that is best for its own final reward.",
)
