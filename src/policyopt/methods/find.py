"""FIND: fine-tuning the initial noise distribution (arXiv 2407.19453, eq. 6 to 10).

z ~ N(m, diag(s^2)), x = DDIM(z, prompt);  A = sg(R - V(m, s, prompt));  r = exp(log p(z) - log p_old(z)), mean over d
L = -w_R A clip(r, 1 - c, 1 + c) + w_KL mean_d (m_d^2 + (s_d - 1)^2);   V by mean (V - R)^2
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method, Role, Term
from policyopt.constraint.standard import NearStandardNormal
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.objective.clamped import ClampedSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.policies.prior import PriorValue
from policyopt.reward.parts import Verified
from policyopt.sampling.prior import WithPrior
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

find = Method(
    about=About(
        key="find",
        title="FIND: Fine-tuning Initial Noise Distribution with Policy Optimization for Diffusion Models",
        paper="arXiv 2407.19453",
        equation="eq. 6 to 10 (policy, value, clamped ratio, regulariser)",
        mechanism="The denoiser is frozen and the chain deterministic: the environment. The policy is the initial "
        "noise, a Gaussian of learned mean and scale, so an episode is one action. A critic that is told the Gaussian "
        "and the prompt calibrates the reward; samples are used several times with a clamped ratio.",
        departures="One prior for all prompts. The value's squared error has weight 2, as its part halves it. Needs a "
        "policy that owns its prior alone (`policies.prior.only_prior`).",
        when_to_use="A frozen model, a wish that its noise can fulfil, and little compute.",
        seed=21,
        family="D",
        nearest="ddpo",
        policies=("denoising",),
    ),
    selection=Selection(count=1),
    sampling=WithPrior(size=1),
    reward=Verified(),
    credit=GeneralisedAdvantage(gamma=1.0, lam=1.0, whitened=False),
    objective=(
        Term("policy", ClampedSurrogate(0.2), TokenMean(), weight=10.0),
        Term("value", SquaredValueError(), TokenMean(), weight=2.0, trains="critic"),
    ),
    constraint=(Term("standard", NearStandardNormal(), TokenMean(), weight=0.01),),
    update=GradientSteps(
        {"critic": AdamW(learning_rate=1e-4), "policy": AdamW(learning_rate=1e-3)}, epochs=5, clip_norm=0.1
    ),
    roles={"policy": Role(grad=True, full=True), "old": Role(when="collected")},
    models={"critic": PriorValue()},
)

_PLANE = {"selection.count": 1, "sampling.size": 8}

claim = Claim(
    statement="Moving the initial noise alone reaches a mode with fewer samples than moving the whole denoiser by "
    "DDPO.",
    source="arXiv 2407.19453, section 4.3; specification 21",
    experiment="flow_by_its_noise",
    observable="share of 512 samples within 0.5 of the wanted mode after training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("find", {**_PLANE, "update.epochs": 1, "update.optimizers.policy.learning_rate": 0.03}),
    baseline=Arm(
        "ddpo",
        {
            "selection.count": 8,
            "sampling.size": 1,
            "objective.clip_low": 0.1,
            "objective.clip_high": 0.1,
            "update.learning_rate": 1e-3,
        },
        {"whole": True},
    ),
    rounds=300,
    scope="A flow in the plane: 2 numbers of noise, not 16384, so the learning rate is 0.03 instead of 0.001. FIND "
    "samples by the ODE, DDPO by the SDE; learning rates are those of the specifications' toy runs, not tuned here.",
)
