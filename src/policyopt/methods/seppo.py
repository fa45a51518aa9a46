"""SePPO: semi-policy preference optimization for diffusion alignment (arXiv 2410.05255, section 4).

x_w: a winning sample; x_r: a sample of ref, an earlier checkpoint drawn at random;  err_m = |n - e_m(x_t, t)|^2
d = err_theta - err_ref of each;  f = sg(-sign d_w);  L = -log sigma(-beta T omega (d_w - f d_r))
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Method, Role, Term, chosen_rows
from policyopt.objective.self_play import DenoisingPreference
from policyopt.sampling.self_play import RecordedAgainst
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.earlier import EarlierSelf
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

seppo = Method(
    about=About(
        key="seppo",
        title="SePPO: Semi-Policy Preference Optimization for Diffusion Alignment",
        paper="arXiv 2410.05255",
        equation="section 4 (semi-policy loss, anchor-based criterion)",
        mechanism="Only winning samples are given. An earlier checkpoint is both the reference and the author of the "
        "other sample. As that one is not always worse, its sign is asked of the winner: if the model explains the "
        "winner better than the reference does, the other sample is pushed down, else it is pulled up too.",
        departures="instantiation: the sign's place in Diffusion-DPO's logit, as the specification reads it; one "
        "checkpoint a round for all prompts; beta T omega(t) constant; one point of noise a sample, the same time for "
        "both of a pair.",
        when_to_use="A diffusion model and samples that are good, without bad ones beside them.",
        seed=151,
        family="B1",
        nearest="dpo",
        policies=("denoising",),
    ),
    selection=Selection(count=128),
    sampling=RecordedAgainst("reference"),
    objective=(Term("preference", DenoisingPreference(), RowMean(), mask=chosen_rows, couples=("pair",)),),
    update=GradientSteps({"policy": AdamW(learning_rate=1e-3)}),
    roles={"reference": Role("reference")},
    models={"reference": Copy()},
    before=(EarlierSelf(every=30),),
)

claim = Claim(
    statement="With the sign asked of the winner the density moves to the winning mode; with every other sample "
    "pushed down (SPIN-Diffusion's loss) it is driven away.",
    source="arXiv 2410.05255, section 5.3 (ablation of the criterion); specification 151",
    experiment="two_modes_one_wins",
    observable="share of 512 samples within 1 of the winning mode's centre",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("seppo"),
    baseline=Arm("seppo", {"objective.flipped": False}, label="always pushed down"),
    rounds=300,
    scope="A diffusion model of 20 steps in the plane, winners from one of its two modes; the specification's "
    "learning rate, not tuned.",
)
