"""RPO: regularized preference optimization (arXiv 2405.16436, section 5): DPO and imitation of the chosen rows.

L = -log sigma(beta (rho(y_w) - rho(y_l)))  -  eta beta sum_t log pi(y_w,t)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import Term, chosen_rows
from policyopt.methods.dpo import dpo
from policyopt.objective.pairwise import PairPreference, chosen_steps
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.update.averaging import RowMean, SequenceMean, SequenceSum

BETA, ETA = 0.01, 0.005

_PREFERENCE = Term("preference", PairPreference(BETA), RowMean(), mask=chosen_rows, couples=("pair",))
_IMITATION = Term(
    "imitation", NegativeLogLikelihood(), SequenceSum(), mask=chosen_steps, weight=ETA * BETA, couples=("pair",)
)

rpo = replace(
    dpo,
    about=replace(
        dpo.about,
        key="rpo",
        title="Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer",
        paper="arXiv 2405.16436",
        equation="the practical objective: DPO + eta beta E[-log pi(chosen)]",
        mechanism="The best policy under the worst reward model that fits the data is found by DPO with a supervised "
        "term. Imitating the chosen rows keeps probability from leaking to answers that the data say nothing of.",
        departures="The baseline distribution is that of the chosen rows, as in the paper's practice. rpo_average is "
        "the second released code: a mean over steps, and a weight of its own. The learning rate is dpo's 1e-6 (the "
        "paper's runs: 5e-7).",
        when_to_use="DPO on little data, or when the likelihood of the chosen rows falls.",
        seed=41,
        nearest="dpo",
    ),
    objective=(_PREFERENCE, _IMITATION),
)

rpo_average = replace(
    rpo,
    about=replace(rpo.about, key="rpo_average", equation="released code: a mean over the chosen row's steps"),
    objective=(
        replace(_PREFERENCE, loss=PairPreference(0.5)),
        replace(_IMITATION, average=SequenceMean(), weight=0.2),
    ),
)

_WORLD = {"selection.count": 1, "update.schedule": "constant", "update.learning_rate": 0.1, "update.epochs": 30}

claim = Claim(
    statement="From one pair DPO moves all probability to an answer that was never seen; with the supervised term it "
    "goes to the chosen one.",
    source="arXiv 2405.16436, section 1 (overoptimization) and theorem 5.3; specification 41",
    experiment="unseen_arm",
    observable="probability of the unseen, bad arm after training, exact",
    higher_is_better=False,
    smallest_effect=0.5,
    threshold=0.1,
    treated=Arm("rpo", {**_WORLD, "objective.beta": 0.1, "objective.imitation.weight": 0.1}),
    baseline=Arm("dpo", {**_WORLD, "objective.beta": 0.1}),
    rounds=40,
    scope="Three arms and a log-linear policy; beta 0.1, eta 1; 1,200 steps of 0.1, not the limit. The features are "
    "those of the specification with a little noise by seed.",
)
