"""PAPO: perception-aware policy optimization (arXiv 2507.06448, section 3).

L = L_GRPO - gamma mean k3(pi(o | I) || pi(o | mask I)) + eta1 H(pi(. | I)) + eta2 H(pi(. | mask I))
k3 = exp(d) - d - 1, d = log pi(o | mask I) - log pi(o | I) ;   H = -mean log pi(o)

`papo_active` scores the masked input at every step with gradient, so that eta2 acts too.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role, Term
from policyopt.constraint.contexts import ContextDependence, Surprise
from policyopt.constraint.divergence import K3Loss
from policyopt.feedback.contexts import MaskedContext
from policyopt.methods.grpo import grpo
from policyopt.update.averaging import SequenceMean, TokenMean

papo = replace(
    grpo,
    about=About(
        key="papo",
        title="Perception-Aware Policy Optimization for Multimodal Reasoning",
        paper="arXiv 2507.06448",
        equation="section 3.2 (implicit perception loss), section 3.4 (double entropy loss)",
        mechanism="The answer is scored twice, with the input and with much of it blacked out, and the divergence of "
        "both is maximised: the policy must depend on what it sees. Two entropies are minimised so that the divergence "
        "is not won by destroying the distribution.",
        departures="Patches are runs of places of a prompt of tokens, not squares of an image. The weights of the GRPO "
        "form for 3B models; with the masked scores taken once, as published, eta2 has no gradient. No decay of "
        "weights.",
        when_to_use="Tasks whose answers can be guessed without the input that should decide them.",
        seed=70,
        family="A2",
        nearest="grpo",
        policies=("language",),
    ),
    feedback=MaskedContext(share=0.6, patch=14),
    constraint=(
        Term("kl", K3Loss(), SequenceMean(), weight=0.01),
        Term("dependence", ContextDependence("blind"), SequenceMean(), weight=-0.02),
        Term("entropy", Surprise(), TokenMean(), weight=0.03),
        Term("blind_entropy", Surprise("blind"), TokenMean(), weight=0.03),
    ),
    roles={**grpo.roles, "blind": Role(context="masked", when="collected")},
)

papo_active = replace(
    papo,
    about=replace(papo.about, key="papo_active", equation="section 3.4, both entropies with gradient"),
    roles={**grpo.roles, "blind": Role(context="masked", grad=True)},
)

_WORLD = {
    "selection.count": 24,
    "sampling.size": 8,
    "feedback.share": 1.0,
    "feedback.patch": 1,
    "feedback.filler": 4,
    "constraint.kl.weight": 0.0,
    "update.learning_rate": 0.05,
}

claim = Claim(
    statement="Maximising the divergence from the masked input makes answers depend more on the input that decides "
    "them.",
    source="arXiv 2507.06448, section 5; specification 70",
    experiment="two_cues",
    observable="accuracy with the deciding input less accuracy without it, exact",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=Arm("papo", {**_WORLD, "constraint.dependence.weight": -0.5}),
    baseline=Arm("papo", {**_WORLD, "constraint.dependence.weight": 0.0}, label="without the divergence"),
    rounds=100,
    scope="A linear policy of two inputs of one symbol each; gamma 0.5, as the published 0.02 is hardly visible here. "
    "No collapse is provoked, so the entropies have nothing to prevent.",
)
