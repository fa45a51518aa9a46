"""DDPO: denoising diffusion policy optimization (arXiv 2305.13301, eq. 4 and 5, algorithm 1).

A_i = (R_i - mean R) / std R over the rewards that the prompt of i has had
DDPO_IS:  L = -mean_i mean_t min(r A, clip(r, 1 - e, 1 + e) A),  r = p(x_{t-1} | x_t, c) / p_old(x_{t-1} | x_t, c)
DDPO_SF:  L = -mean_i mean_t A log p(x_{t-1} | x_t, c), one step per batch of samples
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method, Role, Term
from policyopt.credit.history import TaskStandardised
from policyopt.objective.surrogates import ClippedSurrogate, PolicyGradient
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

ddpo = Method(
    about=About(
        key="ddpo",
        title="Training Diffusion Models with Reinforcement Learning",
        paper="arXiv 2305.13301",
        equation="eq. 5 (DDPO_IS), eq. 4 (DDPO_SF, variant ddpo:ddpo_sf), section 4.3 (rewards by prompt)",
        mechanism="Every denoising step is an action with an exact Gaussian density and the reward comes with the "
        "sample, so PPO's clipped surrogate applies to the chain. Rewards are standardised by those of the same "
        "prompt.",
        departures="The density is averaged over dimensions, as in the released code, so a clip range c bounds the "
        "joint ratio by (1 + c)^D: 1e-4 belongs to latents of thousands of numbers, 0.1 to the plane. The history of "
        "a prompt is counted in rounds it came up in (the code: 16 rewards). No draw of the initial noise is trained. "
        "instantiation: 32 prompts a round, 8 samples each.",
        when_to_use="A diffusion or flow model and a reward of its samples; the plainest of the policy gradients.",
        nearest="ppo",
        policies=("denoising",),
    ),
    selection=Selection(count=32),
    sampling=Group(size=8),
    reward=Verified(),
    credit=TaskStandardised(past=16, fewest=16, ddof=0, epsilon=1e-6, bound=5.0),
    objective=(Term("policy", ClippedSurrogate(1e-4, 1e-4), TokenMean()),),
    update=GradientSteps({"policy": AdamW(learning_rate=1e-5, weight_decay=1e-4)}, minibatches=4),
    roles={"old": Role(when="collected")},
)

ddpo_sf = replace(
    ddpo,
    objective=(Term("policy", PolicyGradient(), TokenMean()),),
    update=replace(ddpo.update, minibatches=1),
    roles={},
)

_PLANE = {"selection.count": 8, "sampling.size": 8}
_RANGE = {"objective.clip_low": 0.1, "objective.clip_high": 0.1}

claim = Claim(
    statement="Several clipped steps on the same samples (DDPO_IS) learn more per sample than one score-function step "
    "(DDPO_SF).",
    source="arXiv 2305.13301, section 6.1 and figure 4",
    experiment="flow_to_one_mode",
    observable="mean reward exp(-squared distance) of 512 samples after training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("ddpo", {**_PLANE, **_RANGE}),
    baseline=Arm("ddpo:ddpo_sf", _PLANE),
    rounds=40,
    tuning=Tuning("update.learning_rate", (3e-4, 1e-3, 3e-3)),
    scope="A rectified flow in the plane sampled as an SDE of 16 steps; clip range 0.1 for 2 dimensions.",
)
