"""CoPG: contrastive policy gradient (arXiv 2406.19185).

R_beta(y) = R(y) - beta sum_t (log pi - log pi_ref)
L = mean over groups of 1/(2 beta (k - 1)) sum_{i > j} (R_beta(y_i) - R_beta(y_j))^2
"""

from dataclasses import replace

from policyopt.claim import Arm
from policyopt.compose import About, Copy, Role
from policyopt.credit.groups import LeaveOneOut
from policyopt.methods.gvpo import claim as of_gvpo
from policyopt.methods.gvpo import gvpo
from policyopt.objective.implicit import ImplicitRegression
from policyopt.sampling.samplers import Group

copg = replace(
    gvpo,
    about=About(
        key="copg",
        title="Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion",
        paper="arXiv 2406.19185",
        equation="contrastive gradient, its loss, k samples in the appendix",
        mechanism="Two answers to one prompt are each other's baseline: each moves by the difference of their "
        "regularised rewards. With that baseline the off-policy gradient is the gradient of a squared difference, "
        "whose minimum is the regularised optimum for every sampler with full support.",
        departures="Rows are the policy's own by default; the loss takes those of any sampler or data set with "
        "rewards. No official code was found.",
        when_to_use="Scored answers of any origin, two or more a task, without importance weights.",
        seed=131,
        family="A1",
        nearest="gvpo",
    ),
    sampling=Group(size=2),
    objective=(replace(gvpo.objective[0], loss=ImplicitRegression(0.1, "reference", pairs=True)),),
    roles={"reference": Role("reference", when="collected")},
    models={"reference": Copy()},
)

_WORLD = {"selection.count": 16, "update.clip_norm": None, "update.learning_rate": 0.1}

claim = replace(
    of_gvpo,
    statement="From pairs of a fixed other sampler CoPG finds reference exp(R / beta) / Z; the policy gradient of the "
    "same pairs with leave-one-out baseline and KL penalty does not.",
    source="arXiv 2406.19185, proposition 1 (unique minimum for any sampler); specification 131",
    treated=Arm("copg", {**_WORLD, "objective.beta": 0.2}, {"size": 2}),
    baseline=Arm(
        "grpo",
        {**_WORLD, "credit": LeaveOneOut(), "constraint.kl.weight": 0.2},
        {"size": 2},
        label="grpo with leave-one-out advantages, KL weight 0.2",
    ),
    rounds=200,
    scope="Tables, one learning rate for both arms (the baseline's error hardly depends on it). The baseline takes "
    "the rows for its own. Importance sampling, the other remedy of the paper, is not an arm.",
)
