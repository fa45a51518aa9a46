"""Direct advantage policy optimization (arXiv 2412.18279): step-level, offline, with a frozen critic.

`..._critic`: L_V = -y log V(s) - (1 - y) log(1 - V(s)), y the share of reference completions from s that are right
then A(s, a) = V(s + a) - V(s) (at the end R - V(s));   L = (sum_t log pi/pi_ref (a|s) - A / beta)^2 / 2
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Critic, Method, Role, Term, trained_rows
from policyopt.credit.success import PrefixSuccess, SuccessGain
from policyopt.objective.anchored import RowAlignment
from policyopt.objective.successors import SuccessCrossEntropy
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.selection.turns import TurnsAsRows
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW


def labelled_steps(seen, batch):
    """Trained steps before which there is a share of success."""
    return batch.trained & batch.step["labelled"]


dapo_direct_advantage = Method(
    about=About(
        key="dapo_direct_advantage",
        title="Improving Multi-Step Reasoning Abilities of Large Language Models with Direct Advantage Policy "
        "Optimization",
        paper="arXiv 2412.18279",
        equation="the critic's cross-entropy and the actor's squared loss",
        mechanism="A critic learns from completions how likely a partial solution is to end right, and is frozen. Then "
        "every step's log-ratio is regressed on how much the step changed that chance. Actor and critic are never "
        "trained together; the cycle may be repeated from the improved policy.",
        departures="A step of reasoning is a turn. Mean over all turns; the critic's probability is a sigmoid, which "
        "needs no clamp.",
        when_to_use="Reasoning in steps with a right or wrong end, offline, and completions that are cheap.",
        seed=113,
        family="B1",
        nearest="apa",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=32, rows=TurnsAsRows()),
    sampling=Group(size=4, model="reference"),
    reward=Verified(),
    credit=SuccessGain(),
    objective=(Term("policy", RowAlignment(0.1), RowMean(), mask=trained_rows, weight=0.5),),
    update=GradientSteps({"policy": AdamW()}),
    roles={"reference": Role("reference", when="collected")},
    models={"reference": Copy(), "critic": Critic()},
)

dapo_direct_advantage_critic = replace(
    dapo_direct_advantage,
    about=replace(
        dapo_direct_advantage.about, key="dapo_direct_advantage_critic", equation="the critic's cross-entropy"
    ),
    selection=Selection(count=32),
    sampling=Group(size=1),
    credit=PrefixSuccess(),
    objective=(Term("critic", SuccessCrossEntropy(), TokenMean(), mask=labelled_steps, trains="critic"),),
    update=GradientSteps({"critic": AdamW()}),
    roles={},
    models={"critic": Critic()},
)
"""The critic alone: the first stage."""

_WORLD = {"selection.count": 16, "update.clip_norm": None, "update.learning_rate": 0.1}

claim = Claim(
    statement="At equal distance from the reference, step-level regression on a frozen critic's advantages ends right "
    "more often than DPO on outcomes.",
    source="arXiv 2412.18279, section 4 (against outcome-level methods); specification 113",
    experiment="tree_of_steps",
    observable="probability of a right leaf where KL(policy || reference) passes 1 nat, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm(
        "dapo_direct_advantage", _WORLD, {"first": "dapo_direct_advantage:dapo_direct_advantage_critic", "warm": 15}
    ),
    baseline=Arm(
        "dpo:dpo_online",
        {**_WORLD, "sampling.model": "reference", "update.schedule": "constant"},
        label="DPO on outcomes",
    ),
    rounds=120,
    scope="A table on a tree of depth 6; both arms read rows of the reference. The critic's completions (25 rounds) "
    "are not counted.",
)
