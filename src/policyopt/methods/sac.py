"""Soft actor-critic with a learned temperature (SAC, arXiv 1812.05905; choices: arXiv 1910.07207).

y     = r + gamma (min_e Q'_e(s', a') - alpha log pi(a'|s')),   a' ~ pi(.|s')              (eq. 6)
L_Q   = sum_e (Q_e(s, a) - y)^2 / 2                                                        (eq. 5)
L_pi  = alpha log pi(a|s) - min_e Q_e(s, a),   a = f(noise; s) reparameterised             (eq. 9)
L_alpha = alpha (H(pi(.|s)) - H_target),   H_target = -1 per dimension of the action       (eq. 18)
Q' <- 0.995 Q' + 0.005 Q after every update
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Method, QCritic, Scalar, Term
from policyopt.objective.action_values import PolicyValue, TemporalDifference
from policyopt.objective.pathwise import SoftImprovement, TemperatureError
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.sampling.streams import Stream
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average
from policyopt.update.optimizers import AdamW
from policyopt.update.replay import ReplaySteps

sac = Method(
    about=About(
        key="sac",
        title="Soft Actor-Critic Algorithms and Applications",
        paper="arXiv 1812.05905",
        equation="eq. 5-6 (soft Bellman residual), eq. 9 (policy), eq. 18 (temperature)",
        mechanism="Learns from stored transitions: twin critics of the soft value, a policy moved along the critic's "
        "gradient by the action, and a temperature that holds the entropy at a target.",
        departures="Updates come in blocks of 32 after 32 steps, so there is still one a step; the first steps are the "
        "initial policy's, not uniform; the entropy is that of the action between -1 and 1, whatever the bounds.",
        when_to_use="Continuous actions where steps of the environment are dear. Give the policy head=squashed; with "
        "finitely many choices (head=categorical) all expectations are exact, and constraint.entropy is to be set.",
        nearest="td3",
        policies=("control",),
    ),
    selection=Selection(),
    sampling=Stream(horizon=32),
    reward=Verified(),
    objective=(
        Term("critic", TemporalDifference(PolicyValue(temperature="temperature")), TokenMean(), trains="critic"),
        Term("policy", SoftImprovement("temperature"), TokenMean()),
    ),
    constraint=(Term("temperature", TemperatureError(), TokenMean(), trains="temperature"),),
    update=ReplaySteps(
        {name: AdamW(learning_rate=3e-4) for name in ("critic", "policy", "temperature")},
        capacity=1_000_000,
        clip_norm=None,
        after_step=(Average("target", "critic", decay=0.995),),
    ),
    models={"critic": QCritic(), "target": Copy("critic"), "temperature": Scalar(1.0)},
)

_WORLD = {
    "sampling": Group(size=1),
    "selection.count": 32,
    "update.starts": 32,
    "update.size": 64,
    "update.ratio": 0.125,
    **{f"update.optimizers.{name}.learning_rate": 3e-3 for name in ("critic", "policy", "temperature")},
}
_FIXED = {"objective.critic.loss.bootstrap.temperature": 0.2, "objective.policy.loss.temperature": 0.2}

claim = Claim(
    statement="A learned temperature holds the policy's entropy at its target where rewards are twenty times as large "
    "as a fixed temperature of 0.2 is made for.",
    source="arXiv 1812.05905, section 5 (the optimal temperature depends on the scale of rewards)",
    experiment="scaled_rewards",
    observable="|entropy of the policy - target entropy| at the end of training (nats)",
    higher_is_better=False,
    smallest_effect=0.2,
    treated=Arm("sac", _WORLD),
    baseline=Arm("sac", {**_WORLD, **_FIXED, "constraint": ()}, label="sac with temperature 0.2"),
    rounds=120,
    scope="One-step tasks: the claim is of the temperature, not of returns.",
)
