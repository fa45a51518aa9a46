"""Twin delayed deep deterministic policy gradient (TD3, arXiv 1802.09477, algorithm 1).

a~   = mu'(s') + clip(0.2 z, -0.5, 0.5),  z ~ N(0, 1)                  (eq. 14)
y    = r + gamma min_e Q'_e(s', a~)                                     (eq. 10)
L_Q  = sum_e (Q_e(s, a) - y)^2 / 2
L_mu = -Q_1(s, mu(s))    at every second update, followed by mu' and Q' <- 0.995 (.)' + 0.005 (.)
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Method, QCritic, Role, Term
from policyopt.objective.action_values import SmoothedValue, TemporalDifference
from policyopt.objective.pathwise import ValueOfMode
from policyopt.reward.parts import Verified
from policyopt.sampling.exploration import Annealed
from policyopt.sampling.samplers import Group
from policyopt.sampling.streams import Stream
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average
from policyopt.update.optimizers import AdamW
from policyopt.update.replay import ReplaySteps

td3 = Method(
    about=About(
        key="td3",
        title="Addressing Function Approximation Error in Actor-Critic Methods",
        paper="arXiv 1802.09477",
        equation="eq. 10 (clipped double Q), eq. 14 (target smoothing), algorithm 1 (delayed updates)",
        mechanism="A deterministic policy follows the critic's gradient by the action. Against critics that "
        "overestimate: the lesser of two, targets smoothed around the next action, a policy that moves half as often.",
        departures="Updates come in blocks of 32 after 32 steps, one a step as in the paper. The first steps are not "
        "uniform: exploration noise falls from 1 to 0.1 over the first twentieth of the run.",
        when_to_use="Continuous actions and one best action a state; with dense rewards often the quicker of td3 and "
        "sac, but it explores less. Give the policy head=deterministic.",
        nearest="sac",
        policies=("control",),
    ),
    selection=Selection(),
    sampling=Stream(horizon=32, exploration=Annealed(1.0, 0.1, 0.05)),
    reward=Verified(),
    objective=(
        Term("critic", TemporalDifference(SmoothedValue()), TokenMean(), trains="critic"),
        Term("policy", ValueOfMode(), TokenMean()),
    ),
    update=ReplaySteps(
        {"critic": AdamW(learning_rate=3e-4), "policy": AdamW(learning_rate=3e-4)},
        capacity=1_000_000,
        clip_norm=None,
        every={"policy": 2},
        after_step=(
            Average("target", "critic", decay=0.995, every=2),
            Average("target_policy", "policy", decay=0.995, every=2),
        ),
    ),
    roles={"target_policy": Role("target_policy")},
    models={"critic": QCritic(), "target": Copy("critic"), "target_policy": Copy("policy")},
)

_WORLD = {
    "sampling": Group(size=1),
    "selection.count": 4,
    "objective.critic.loss.gamma": 0.95,
    "update.starts": 64,
    "update.size": 64,
    "update.ratio": 0.125,
    "update.optimizers.critic.learning_rate": 3e-3,
    "update.optimizers.policy.learning_rate": 1e-3,
}

claim = Claim(
    statement="The lesser of two critics overestimates the policy's return less than one critic does.",
    source="arXiv 1802.09477, section 4 and figure 2 (clipped double Q-learning against a single target)",
    experiment="overestimation",
    observable="estimated less true discounted return of the policy, over states, at the end of training",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=Arm("td3", _WORLD),
    baseline=Arm("td3", {**_WORLD, "models": {**td3.models, "critic": QCritic(heads=1)}}, label="td3 with one critic"),
    rounds=80,
    scope="A line with noisy rewards. An estimate that is too low counts as better here; the paper expects that side.",
)
