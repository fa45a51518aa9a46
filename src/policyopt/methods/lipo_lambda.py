"""LiPO-lambda: listwise preference optimization by learning to rank (arXiv 2402.01878).

s_k = beta (log pi - log pi_ref)(y_k);   L = -sum_{psi_i > psi_j} Delta_ij log sigma(s_i - s_j)
Delta_ij = |2^psi_i - 2^psi_j| |1 / log(1 + tau_i) - 1 / log(1 + tau_j)|, tau the places by s
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import Term
from policyopt.methods.dpo import dpo
from policyopt.objective.listwise import LabelledList, PairsOfStated, RankedList, listed
from policyopt.sampling.samplers import RecordedPairs
from policyopt.update.averaging import RowMean

lipo_lambda = replace(
    dpo,
    about=replace(
        dpo.about,
        key="lipo_lambda",
        title="LiPO: Listwise Preference Optimization through Learning-to-Rank",
        paper="arXiv 2402.01878",
        equation="the lambda loss (and, as variants, its other ranking losses)",
        mechanism="Implicit rewards of a list of answers are ranking scores, graded labels their relevance. Every pair "
        "of a list is contrasted, weighted by how much the discounted gain would change if the two swapped places.",
        departures="No official code is known. Places are a permutation: equal scores, as all are at the reference, "
        "are placed in the order of the rows.",
        when_to_use="Several graded answers a prompt, and the top of the list matters most.",
        seed=120,
        nearest="dpo",
    ),
    sampling=RecordedPairs(("label",)),
    objective=(Term("preference", PairsOfStated(beta=0.1, gain=True), RowMean(), mask=listed, couples=("pair",)),),
)


def _variant(key: str, loss: object, equation: str):
    return replace(
        lipo_lambda,
        about=replace(lipo_lambda.about, key=f"lipo_{key}", equation=equation),
        objective=(replace(lipo_lambda.objective[0], loss=loss),),
    )


lipo_pairs = _variant("pairs", PairsOfStated(beta=0.1), "pairwise logistic: every pair alike")
lipo_hinge = _variant("hinge", PairsOfStated(beta=0.1, link="hinge"), "pairwise hinge")
lipo_mle = _variant("mle", RankedList(beta=0.1, gaps=False), "list-MLE (Plackett-Luce)")
lipo_softmax = _variant("softmax", LabelledList(beta=0.1), "softmax cross-entropy")
lipo_pointwise = _variant("pointwise", LabelledList(beta=0.1, targets="pointwise"), "pointwise cross-entropy")

_WORLD = {
    "selection.count": 64,
    "update.schedule": "constant",
    "update.learning_rate": 0.05,
    "update.epochs": 5,
    "update.clip_norm": None,
}

claim = Claim(
    statement="With pairs weighted by the change of the gain, a policy that can not fit all labels earns a higher "
    "label than with all pairs weighted alike.",
    source="arXiv 2402.01878, section 5 (lambda against pairwise logistic); specification 120",
    experiment="graded_lists",
    observable="expected label of the sampled answer, exact",
    higher_is_better=True,
    smallest_effect=0.01,
    treated=Arm("lipo_lambda", _WORLD),
    baseline=Arm("lipo_lambda:lipo_pairs", _WORLD, label="all pairs alike"),
    rounds=60,
    scope="64 contexts, 8 arms, a linear policy of 12 features; 300 steps of 0.05 as in the specification, which saw a "
    "difference of about 0.02.",
)
