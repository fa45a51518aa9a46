"""OPPO: offline preference-guided policy optimization (arXiv 2305.16217).

phi = Enc(window), a_t = Dec(s_t, phi) ;  z* is a free vector
A (Enc, Dec): L_HIM + c_p L_pref(sg z*, phi+, phi-) + c_n ((|phi_1| - 1)^2 + (|phi_2| - 1)^2),
              L_HIM = sum over both windows of mean_t |a_t - Dec(s_t, phi)|^2 (of tokens: -log Dec(a_t | .., phi))
B (z*):       L_pref(z*, sg phi+, sg phi-) = max(0, |z* - phi+| - |z* - phi-| + margin) ;  acting: Dec(s_t, z*)
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method, Role, Term, chosen_rows, trained_rows
from policyopt.constraint.cloning import WriteAgain
from policyopt.objective.reward_models import PairHinge, RowTarget
from policyopt.policies.hindsight import HINDSIGHT, Landmark
from policyopt.sampling.samplers import RecordedPairs
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean, SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

_TRIPLET = PairHinge(model="wish", margin=1.0)

oppo = Method(
    about=About(
        key="oppo",
        title="Beyond Reward: Offline Preference-guided Policy Optimization",
        paper="arXiv 2305.16217",
        equation="hindsight information matching with a preference-guided context; released code bkkgbkjb/OPPO",
        mechanism="A policy learns to repeat any recorded window from a code of it. A free code is pulled to the codes "
        "of preferred windows and away from the others, and shapes their space by the same loss. The policy is then "
        "told that code: no reward, no value, no bootstrapping.",
        departures="In control a mean over steps and an MLP take the place of two transformers, so actions do not see "
        "earlier ones; squared errors are means over dimensions of an action. Language is not in the paper: the code "
        "of prompt and answer is added to the embeddings of a decoder, whose log-probabilities take the place of "
        "squared errors. The gradient of z* is clipped as that of the networks. A term moves one model only, which is "
        "what the stops of gradients say.",
        when_to_use="Recordings of several ways to act, with preferences between pieces of them "
        "(recipes/preferences/oppo.yaml); policies of `policies.hindsight`, in recipes of language `policy.hindsight`.",
        seed=37,
        family="B1",
        nearest="dppo_pref",
        policies=("language", "control"),
    ),
    selection=Selection(count=64),
    sampling=RecordedPairs(),
    objective=(
        Term("hindsight", WriteAgain(), SequenceMean(), weight=2.0),
        Term("preference", _TRIPLET, RowMean(), mask=chosen_rows, weight=0.1, couples=("pair",)),
        Term("length", RowTarget(model="origin", target=-1.0), RowMean(), mask=trained_rows, weight=0.2),
        Term("wish", _TRIPLET, RowMean(), mask=chosen_rows, trains="wish", couples=("pair",)),
    ),
    roles={"policy": Role(grad=True, context=HINDSIGHT)},
    update=GradientSteps({"policy": AdamW(1e-4), "wish": AdamW(1e-3)}, clip_norm=0.25),
    models={"wish": Landmark(), "origin": Landmark(trained=False)},
)

_RATES = {"update.optimizers.policy.learning_rate": 3e-3, "update.optimizers.wish.learning_rate": 2e-2}

claim = Claim(
    statement="From recordings of four ways to act and preferences between pieces of them, OPPO acts as the best of "
    "the four does; cloning mixes them.",
    source="arXiv 2305.16217, section 5 (against behaviour cloning); specification 37",
    experiment="four_goals",
    observable="return / that of the best of the four, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("oppo", {**_RATES, "selection.count": 32}),
    baseline=Arm(
        "bc",
        {
            "selection.count": 32,
            "update.learning_rate": 3e-3,
            "update.clip_norm": 0.25,
            "update.minibatches": 1,
            "update.unit": "row",
        },
    ),
    rounds=250,
    scope="A point in the plane, windows of 20 steps, 500 pairs ordered by their true returns, codes of 4 numbers. In "
    "the specification's runs z* settled at the second-best goal on one seed of two.",
)
