"""GVPO: group variance policy optimization (arXiv 2504.19599).

d_i = beta sum_t (log pi - log pi_anchor)
L = mean over groups of 1/(G - 1) sum_i ((d_i - mean d) - (R_i - mean R))^2 / 2
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Nothing, Role, Term
from policyopt.credit.groups import GroupCentred
from policyopt.methods.rloo import rloo
from policyopt.objective.implicit import ImplicitRegression, compared_rows
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.update.grouped import GroupMean

gvpo = replace(
    rloo,
    about=About(
        key="gvpo",
        title="GVPO: Group Variance Policy Optimization for Large Language Model Post-Training",
        paper="arXiv 2504.19599",
        equation="weights that sum to zero; mean squared error of centred rewards; theorem 3.1",
        mechanism="At the optimum of the KL-regularised return, beta log(pi / anchor) equals the reward up to a "
        "constant of the task. Centring both within a group removes it; what is left is a regression, whose only "
        "minimum is that optimum whoever sampled the rows. No importance weights, no clip.",
        departures="Mean over groups (the released code sums over a micro-batch's rows).",
        when_to_use="Rows of other policies, replay or demonstrations, when the KL-regularised optimum is the goal.",
        seed=83,
        family="A1",
        nearest="rloo",
    ),
    sampling=Group(size=8),
    reward=Verified(),
    credit=Nothing(),
    objective=(Term("policy", ImplicitRegression(0.1), GroupMean(), mask=compared_rows, couples=("group",)),),
    roles={"old": Role(when="collected")},
    models={},
)

_ANCHORED = {
    "objective": (replace(gvpo.objective[0], loss=ImplicitRegression(0.2, "reference")),),
    "roles": {"reference": Role("reference", when="collected")},
    "models": {"reference": Copy()},
    "selection.count": 16,
    "update.clip_norm": None,
    "update.learning_rate": 0.1,
}

claim = Claim(
    statement="From rows of a fixed other sampler GVPO finds reference exp(R / beta) / Z; mean-centred policy "
    "gradients with a KL penalty of the same beta do not.",
    source="arXiv 2504.19599, theorem 3.1 and corollary 3.2 (any sampling distribution); specification 83",
    experiment="rows_of_another",
    observable="total variation from the policy to the KL-regularised optimum, exact",
    higher_is_better=False,
    smallest_effect=0.05,
    threshold=0.05,
    treated=Arm("gvpo", _ANCHORED),
    baseline=Arm(
        "grpo",
        {
            "selection.count": 16,
            "update.clip_norm": None,
            "update.learning_rate": 0.1,
            "credit": GroupCentred(),
            "constraint.kl.weight": 0.2,
        },
        label="grpo without division by the spread, KL weight 0.2",
    ),
    rounds=150,
    scope="Tables, one learning rate for both arms (the baseline's error hardly depends on it); the anchor is the "
    "reference, as the rows' own policy is not the initial one. The baseline takes the rows for its own, as a loss "
    "without importance weights must.",
)
