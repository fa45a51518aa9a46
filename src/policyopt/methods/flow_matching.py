"""Flow matching and denoising regression on recorded samples: how a base model is trained before its rewards.

L = mean_b mean_p mean_d (u_theta(a_t x_0 + b_t eps, t, c) - u)^2,  t and eps drawn afresh at every optimiser step
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method, Term, trained_rows
from policyopt.objective.matching import DenoisingRegression
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

flow_matching = Method(
    about=About(
        key="flow_matching",
        title="Flow matching and denoising score matching on recorded samples",
        paper="arXiv 2210.02747 (flow matching), 2006.11239 (noise prediction), 2209.03003 (rectified flow)",
        equation="2210.02747 eq. 14 with the straight path; 2006.11239 eq. 14",
        mechanism="Recorded samples are noised at random times and the network is regressed on the noise or velocity. "
        "The chain's own convention says which.",
        departures="Times are uniform. No weighting by the time.",
        when_to_use="To train a denoising policy on data; then any method with rewards.",
        policies=("denoising",),
    ),
    selection=Selection(count=256),
    sampling=Recorded(),
    objective=(Term("matching", DenoisingRegression(points=4), RowMean(), mask=trained_rows),),
    update=GradientSteps({"policy": AdamW(learning_rate=2e-3)}),
)

_SMALL = {"objective.points": 1, "update.schedule": "linear"}

claim = Claim(
    statement="Samples along straight paths need fewer steps than samples along a diffusion's path.",
    source="arXiv 2210.02747, section 6 (number of function evaluations)",
    experiment="few_steps",
    observable="energy distance of samples of 4 deterministic steps to the data",
    higher_is_better=False,
    smallest_effect=0.05,
    treated=Arm("flow_matching", _SMALL, {"path": "straight"}, label="velocity along straight paths"),
    baseline=Arm("flow_matching", _SMALL, {"path": "diffusion"}, label="noise along the path of DDPM"),
    rounds=1000,
    tuning=Tuning("update.learning_rate", (0.003, 0.01)),
    scope="Points in the plane; both paths train the same network on the same rows. Euler steps against DDIM steps.",
)
