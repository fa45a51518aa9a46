"""Edit-R1 DiffusionNFT: negative-aware fine-tuning on the forward process (arXiv 2510.16888, eq. 2 to 6).

rho = clip(clip(A, -5, 5) / 10 + 1/2, 0, 1);  v+ = b v + (1 - b) v_old, v- = (1 + b) v_old - b v
x_t = (1 - t) x_0 + t eps
l(u) = mean_d (x_t - t u - x_0)^2 / sg(max(mean_d |x_t - t u - x_0|, 1e-5))
L = mean 5 (rho l(v+) + (1 - rho) l(v-)) / b + lambda mean_d (v - v_ref)^2;  theta_old <- d theta_old + (1 - d) theta
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Copy, Method, Role, Term, trained_rows
from policyopt.credit.shares import GoodShare
from policyopt.objective.negative_aware import NegativeAware
from policyopt.reward.parts import Verified
from policyopt.sampling.branches import Samples
from policyopt.selection.solved import UnretiredTasks, UnsolvedGroups
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.update.warming import WarmingAverage

edit_r1_diffusion_nft = Method(
    about=About(
        key="edit_r1_diffusion_nft",
        title="Uniworld-V2: Reinforce Image Editing with Diffusion Negative-aware Finetuning and MLLM Implicit "
        "Feedback",
        paper="arXiv 2510.16888",
        equation="eq. 2 to 6; DiffusionNFT arXiv 2509.16117, eq. 5 and 6",
        mechanism="Samples of a lagged policy are noised again at random times. The trained velocity and the lagged "
        "one make an implicit good and an implicit bad model, and the reward says how much of each regression error "
        "counts. No densities, so any solver may draw. Groups whose rewards hardly differ or are good already are "
        "left out, and prompts that are both are retired.",
        departures="As the release, a group is dropped if either condition fails (`lenient` reads the paper softly). "
        "Samples by the policy's own chain (`heun_flow(6)` for the release's dpm2). The judge is any reward in 0..1; "
        "`reward.digits` reads one from the logits of digits. instantiation: uniform times.",
        when_to_use="A flow model and a reward of its samples, with few deterministic steps and no stored chains.",
        seed=213,
        family="D",
        nearest="flow_matching",
        policies=("denoising",),
    ),
    selection=Selection(count=24, tasks=UnretiredTasks(), rows=UnsolvedGroups()),
    sampling=Samples(size=12, model="lagged"),
    reward=Verified(),
    credit=GoodShare(),
    objective=(Term("policy", NegativeAware(), RowMean(), mask=trained_rows),),
    update=GradientSteps({"policy": AdamW(learning_rate=3e-4)}, minibatches=8),
    roles={"lagged": Role("lagged"), "reference": Role("reference")},
    models={"lagged": Copy(), "reference": Copy()},
    after=(WarmingAverage("lagged"),),
)

_PLANE = {"selection.count": 16, "sampling.size": 12}

claim = Claim(
    statement="Learning from bad samples too reaches a reward sooner than learning from good ones only.",
    source="arXiv 2509.16117, section 4.3; specification 213",
    experiment="flow_by_its_forward_process",
    observable="mean reward exp(-squared distance / 2) of 512 samples after 12 rounds",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("edit_r1_diffusion_nft", _PLANE),
    baseline=Arm("edit_r1_diffusion_nft", {**_PLANE, "credit.least": 0.5}, label="good samples only"),
    rounds=12,
    tuning=Tuning("update.learning_rate", (3e-4, 1e-3, 3e-3)),
    scope="A rectified flow in the plane, 6 Heun steps. The reward is read from peaked logits of six digits, as a "
    "judge's would be. Groups are filtered in both arms.",
)
