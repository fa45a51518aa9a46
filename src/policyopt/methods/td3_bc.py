"""TD3 with behaviour cloning (TD3+BC, arXiv 2106.06860, eq. 3 and 5).

L_mu = -lambda Q_1(s, mu(s)) + mean_d (mu(s)_d - a_d)^2,   lambda = alpha / mean |Q_1(s, mu(s))|
the critics are those of td3
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method, Term
from policyopt.constraint.cloning import CloneSteps
from policyopt.methods.td3 import td3
from policyopt.objective.pathwise import ByValueScale, ValueOfMode
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps

td3_bc = Method(
    about=About(
        key="td3_bc",
        title="A Minimalist Approach to Offline Reinforcement Learning",
        paper="arXiv 2106.06860",
        equation="eq. 3 (policy with cloning), eq. 5 (scale of values)",
        mechanism="TD3 on recordings, held to the recorded actions by a squared distance whose share does not depend "
        "on the scale of rewards.",
        departures="lambda is taken at the policy's own actions, as in the authors' code, not at recorded ones. "
        "Observations are scaled only if the policy does so (normalise).",
        when_to_use="Recordings of continuous control, narrow or mixed. Give the policy head=deterministic.",
        nearest="td3",
        policies=("control",),
    ),
    selection=Selection(count=25_600),
    sampling=Recorded(),
    reward=td3.reward,
    objective=(td3.objective[0], Term("policy", ValueOfMode(), TokenMean(), weight=ByValueScale(2.5))),
    constraint=(Term("clone", CloneSteps(), TokenMean()),),
    update=GradientSteps(
        td3.update.optimizers,
        minibatches=100,
        unit="step",
        clip_norm=None,
        every=td3.update.every,
        after_step=td3.update.after_step,
    ),
    roles=td3.roles,
    models=td3.models,
)

_WORLD = {
    "selection.count": 500,
    "update.minibatches": 8,
    "update.optimizers.critic.learning_rate": 3e-3,
    "update.optimizers.policy.learning_rate": 3e-3,
}

claim = Claim(
    statement="On narrow recordings the cloning term keeps the policy where values are known: without it, it follows "
    "the critic to actions that nobody recorded and that pay worse.",
    source="arXiv 2106.06860, sections 4 and 5 (extrapolation error; ablation of the cloning term)",
    experiment="narrow_recordings",
    observable="true mean reward of the policy's own action",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("td3_bc", _WORLD),
    baseline=Arm("td3_bc", {**_WORLD, "constraint": ()}, label="td3_bc without cloning"),
    rounds=50,
    scope="One-step tasks: the critic is a regression, so only its extrapolation is at stake.",
)
