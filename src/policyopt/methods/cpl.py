"""CPL: contrastive preference learning from segments (arXiv 2310.13639, eq. 5 and section 3.3).

S(segment) = alpha sum_t gamma^t log pi(a_t|s_t);   L = -log sigma(S(+) - lam S(-))
cpl_kl: log pi - log pi_ref, the reference the policy after cloning;  cpl_cloning: the stage before
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method, Term, chosen_rows
from policyopt.methods.dpo import dpo
from policyopt.objective.pairwise import PairPreference
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.sampling.samplers import RecordedPairs
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

cpl = Method(
    about=About(
        key="cpl",
        title="Contrastive Preference Learning: Learning from Human Feedback without RL",
        paper="arXiv 2310.13639",
        equation="eq. 5 (CPL), section 3.3 (conservative bias lambda)",
        mechanism="People compare behaviours by regret: by the sum of optimal advantages, which under maximum entropy "
        "is alpha log pi*. So the likelihood of a preference is a contrast of the policy's own log-probabilities over "
        "two segments: no reward, no value, any process. A bias below 1 on the worse side keeps near the data.",
        departures="No cloning term beside the preference (the paper's main runs have none); cloning is the stage "
        "before, cpl_cloning. Several segments ranked at once: `PairsOfStated(averaged=True)`. Policies "
        "without density: `PairsOfDistances`.",
        when_to_use="Preferences over pieces of behaviour in control, and no wish for a reward model.",
        seed=240,
        family="B1",
        nearest="dpo",
    ),
    selection=Selection(count=96),
    sampling=RecordedPairs(),
    objective=(
        Term(
            "preference",
            PairPreference(0.1, anchor=None, rejected=0.5),
            RowMean(),
            mask=chosen_rows,
            couples=("pair",),
        ),
    ),
    update=GradientSteps({"policy": AdamW(learning_rate=1e-4)}),
)

cpl_cloning = replace(
    cpl,
    about=replace(cpl.about, key="cpl_cloning", equation="section 3.4 (behaviour cloning on all segments first)"),
    objective=(Term("cloning", NegativeLogLikelihood(), TokenMean()),),
)
"""The first stage: all steps of both sides are imitated."""

cpl_kl = replace(
    cpl,
    about=replace(cpl.about, key="cpl_kl", equation="appendix (CPL-KL)"),
    objective=(replace(cpl.objective[0], loss=PairPreference(0.2, rejected=0.75)),),
    roles=dpo.roles,
    models=dpo.models,
)

_WORLD = {"selection.count": 250, "update.learning_rate": 0.2}

claim = Claim(
    statement="From segments of a uniform policy that are compared by regret, CPL finds a policy of nearly the best "
    "return; imitating the preferred segments does not.",
    source="arXiv 2310.13639, section 4 (CPL against SFT); specification 240",
    experiment="segments_by_regret",
    observable="share of the attainable discounted return, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    threshold=0.8,
    treated=Arm("cpl", {**_WORLD, "objective.rejected": 1.0, "objective.discount": 1.0}),
    baseline=Arm("sft", _WORLD, label="sft on the preferred segments"),
    rounds=150,
    scope="A table on a gridworld, labels by the regret model that the paper assumes, without bias (lam = 1): the data "
    "are of a uniform policy, near which nobody wishes to stay. One "
    "learning rate: on a development seed imitation did not depend on it.",
)
