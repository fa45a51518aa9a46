"""rDPO: DPO from labels that are wrong with a known probability e < 1/2 (arXiv 2403.00409).

L = ((1 - e) l(D) - e l(-D)) / (1 - 2 e),  l(D) = -log sigma(beta D), D = rho(y_w) - rho(y_l) as labelled
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.methods.dpo import dpo
from policyopt.objective.pairwise import PairPreference

rdpo = replace(
    dpo,
    about=replace(
        dpo.about,
        key="rdpo",
        title="Provably Robust DPO: Aligning Language Models with Noisy Feedback",
        paper="arXiv 2403.00409",
        equation="the robust loss (unbiased under random flips)",
        mechanism="The loss of the given and of the flipped label are combined with signs so that their mean over "
        "random flips is the loss of the right label. Label smoothing, in contrast, has a biased minimum.",
        departures="None. The loss has no lower bound on a single pair that is seen again and again.",
        when_to_use="Many pairs whose labels are wrong at a rate that is known roughly.",
        seed=244,
        nearest="dpo",
    ),
    objective=(replace(dpo.objective[0], loss=PairPreference(0.1, wrong=0.1, unbiased=True)),),
)

_WORLD = {"selection.count": 1024, "update.schedule": "linear", "objective.beta": 1.0, "update.learning_rate": 0.1}

claim = Claim(
    statement="With three labels in ten turned round, rDPO still finds the optimum of the right labels; DPO does not.",
    source="arXiv 2403.00409, theorem 4.2 and section 5; specification 244",
    experiment="flipped_labels",
    observable="total variation to pi_ref exp(r / beta) / Z, exact",
    higher_is_better=False,
    smallest_effect=0.05,
    treated=Arm("rdpo", {**_WORLD, "objective.wrong": 0.3}),
    baseline=Arm("dpo", _WORLD),
    rounds=200,
    scope="Tables of 10 answers, 50,000 pairs; the rate of flips is known exactly. One learning "
    "rate: on a development seed that of DPO made no difference.",
)
