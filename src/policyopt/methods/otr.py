"""OTR: one-token rollout (arXiv 2509.26313).

At every prefix of a demonstration a_1..a_K ~ softmax(logits / kappa);  R(a) = 1 if a = y_t else b
L = -mean_t (1 / K) sum_k R(a_k) log pi(a_k | x, y_<t)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role, Term
from policyopt.methods.sft import sft
from policyopt.objective.one_step import OneStepRollout
from policyopt.update.averaging import TokenMean

otr = replace(
    sft,
    about=About(
        key="otr",
        title="One-Token Rollout: Guiding Supervised Fine-Tuning of LLMs with Policy Gradient",
        paper="arXiv 2509.26313",
        equation="one-token rollouts, their reward and loss",
        mechanism="Every position of a demonstration is a bandit: draws of the policy that match the demonstrated "
        "choice are rewarded. A position whose choice the policy never draws gives almost no signal, so unlikely "
        "(often wrong) demonstrations move it little.",
        departures="K, kappa and b are not given in the text that could be read: 256, 1 and -0.1 here. No code was "
        "found.",
        when_to_use="Demonstrations with some wrong steps, from a policy that already draws the right ones.",
        seed=202,
        family="A1",
        nearest="sft",
        policies=("language", "tabular"),
    ),
    objective=(Term("rollout", OneStepRollout(), TokenMean()),),
    roles={"policy": Role(grad=True, full=True)},
)

_WORLD = {"selection.count": 96, "update.clip_norm": None, "update.learning_rate": 0.1}

claim = Claim(
    statement="From demonstrations of which a tenth are wrong, OTR ends with more probability on the right choice "
    "than supervised fine-tuning.",
    source="arXiv 2509.26313, section 4 (robustness against supervised fine-tuning); specification 202",
    experiment="faulty_demonstrations",
    observable="probability of the right choice after training, mean over contexts, exact",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("otr", _WORLD),
    baseline=Arm("sft", _WORLD),
    rounds=100,
    scope="Tables of 24 contexts, which share nothing: forgetting is not tested (the specification did not see it "
    "reduced at equal steps).",
)
