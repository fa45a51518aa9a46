"""B2-DiffuRL: backward progressive training and branch-based sampling (arXiv 2503.11240, section 4).

Round j trains the last m_j = m_0 + floor(j (m_max - m_0 + 1) / J) steps; x_K ... x_{m_j} is shared by B branches
z_b = (R_b - mean_p R) / (std_p R + eps) over this and the last H rounds of the prompt; A = clip(z, -5, 5)
Kept: argmax_b z_b if z >= 0.5, argmin_b z_b if z < -0.5;  L = mean max(-A r, -A clip(r, 1 - c, 1 + c))
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Method, Role, Term
from policyopt.credit.history import SignWeighted, TaskStandardised
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.sampling.branches import Branched
from policyopt.sampling.progress import BackwardProgress
from policyopt.selection.extremes import ClearExtremes
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

b2_diffurl = Method(
    about=About(
        key="b2_diffurl",
        title="Towards Better Alignment: Training Diffusion Models with Reinforcement Learning Against Sparse Rewards",
        paper="arXiv 2503.11240",
        equation="section 4.1 (backward progressive training), section 4.2 (branch-based sampling)",
        mechanism="At first only the last steps of a chain are trained, then ever earlier ones, so that each is "
        "learned when what follows it is already good. Branches differ in trained steps alone, so a difference in "
        "reward is theirs. Of a branch group only a clear best and a clear worst are kept.",
        departures="Settings of the released script. The clip to -5..5 comes before rows are compared, so only rows "
        "beyond it tie. instantiation: the last H rounds are those in which the prompt came up.",
        when_to_use="Rewards that few samples get, decided late in the chain.",
        seed=160,
        family="D",
        nearest="ddpo",
        policies=("denoising",),
    ),
    selection=Selection(count=32, rows=ClearExtremes(0.5, -0.5)),
    sampling=Branched(stem=BackwardProgress(first=14, last=20, rounds=100), size=5),
    reward=Verified(),
    credit=Chain((TaskStandardised(past=8, bound=5.0), SignWeighted())),
    objective=(Term("policy", ClippedSurrogate(0.1, 0.1), TokenMean()),),
    update=GradientSteps({"policy": AdamW(learning_rate=1e-4)}, epochs=2),
    roles={"old": Role(when="collected")},
)

_PLANE = {"selection.count": 13, "sampling.size": 5, "update.minibatches": 2}

claim = Claim(
    statement="With a reward for a late-decided detail, backward progressive training with branches learns more per "
    "finished sample than DDPO.",
    source="arXiv 2503.11240, section 5.2; specification 160",
    experiment="flow_to_a_detail",
    observable="mean reward of 512 samples after training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("b2_diffurl", {**_PLANE, "sampling.stem.rounds": 40}),
    baseline=Arm("ddpo", {**_PLANE, "objective.clip_low": 0.1, "objective.clip_high": 0.1, "update.epochs": 2}),
    rounds=40,
    tuning=Tuning("update.learning_rate", (3e-4, 1e-3, 3e-3)),
    scope="A rectified flow in the plane sampled as an SDE of 20 steps. Equal finished samples; branches share their "
    "stems, so that B2-DiffuRL asks the network less often (notes).",
)
