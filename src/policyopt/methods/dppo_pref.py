"""DPPO: direct preference-based policy optimization without reward modeling (arXiv 2301.12842).

d_i = mean_t |pi(s_t) - a_t| / ((a_max - a_min) temperature)  over a window
L = -mean_{i before j} log [exp(-d_i) / (exp(-d_i) + exp(-lam d_j))]
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method, Term
from policyopt.feedback.lists import RankedRows
from policyopt.objective.listwise import PairsOfDistances, listed
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

dppo_pref = Method(
    about=About(
        key="dppo_pref",
        title="Direct Preference-based Policy Optimization without Reward Modeling",
        paper="arXiv 2301.12842",
        equation="the contrastive objective with conservativeness lambda",
        mechanism="Offline control: recorded windows are put in order of preference, and the policy has to be closer, "
        "by the distance of its actions, to the windows that are preferred than to the others. A factor lambda weakens "
        "the push away from the others. No reward is learned, and no value.",
        departures="The order is that of the rows' reward: of the world, or of any model of the run that scores "
        "windows. The paper's predictor of preferences, trained with a penalty on time-shifted windows, is not part of "
        "this. Pairs of equal scores are left out.",
        when_to_use="Recordings in control and preferences between pieces of them; policies of continuous actions.",
        seed=89,
        family="B1",
        nearest="cpl",
        policies=("control",),
    ),
    selection=Selection(count=256),
    sampling=Recorded(),
    reward=Verified(),
    feedback=RankedRows(whole=True),
    objective=(
        Term(
            "preference",
            PairsOfDistances(temperature=0.1, averaged=True),
            RowMean(),
            mask=listed,
            couples=("pair",),
        ),
    ),
    update=GradientSteps({"policy": AdamW(learning_rate=3e-4)}),
)

_WORLD = {"selection.count": 64, "update.learning_rate": 0.02, "update.clip_norm": None}

claim = Claim(
    statement="From recordings of a good and, more often, a bad controller, DPPO finds the good one by preferences; "
    "imitation finds their mixture.",
    source="arXiv 2301.12842, section 4 (against behaviour cloning); specification 89",
    experiment="two_controllers",
    observable="place of the policy between the bad (0) and the good (1) controller, exact",
    higher_is_better=True,
    smallest_effect=0.2,
    threshold=0.8,
    treated=Arm("dppo_pref", _WORLD),
    baseline=Arm(
        "bc",
        {
            "selection.count": 64,
            "update.learning_rate": 0.02,
            "update.clip_norm": None,
            "update.minibatches": 1,
            "update.unit": "row",
        },
    ),
    rounds=200,
    scope="One-dimensional control, the policy a single gain; the order of windows is that of their true returns.",
)
