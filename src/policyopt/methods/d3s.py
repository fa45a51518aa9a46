"""D3S: dynamic dual-level down-sampling (arXiv 2509.22115).

S = argmax over sets of N rows of Var_{i in S}(A_i), over the whole round ;   of their steps the K % of largest
|A_it| H_it ;   N and K rise on a line over the training ;   loss of GRPO, a mean over the kept steps
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Role, Term
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.selection.pruning import LargestSteps, MostVaried
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean

d3s = replace(
    grpo,
    about=About(
        key="d3s",
        title="Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for Efficient Policy Optimization",
        paper="arXiv 2509.22115",
        equation="sections 3.1 (variance of advantages across groups), 3.2 (|A| H of steps), 3.3 (schedule)",
        mechanism="Of all rows of a round the subset whose advantages vary most is kept: some of the best and some of "
        "the worst. Of its steps only those with a large product of |advantage| and entropy are trained on. Both "
        "shares begin small and are relaxed.",
        departures="Shares are the specification's (rows 25 % to 75 %, steps 20 % to 60 %). The entropy is that of the "
        "policy before the update.",
        when_to_use="Large rounds of long rows whose updates cost more than their sampling.",
        seed=140,
        family="A2",
        nearest="grpo",
    ),
    selection=Selection(count=32, rows=Chain((MostVaried(0.25, 0.75), LargestSteps(0.2, 0.6)))),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {"selection.count": 8, "update.learning_rate": 0.1}
_UNTIL = {"unit": "steps", "level": 0.8}

claim = Claim(
    statement="80 % is reached with fewer trained steps than when every step of every row is trained on.",
    source="arXiv 2509.22115, abstract (fewer samples and tokens); specification 140",
    experiment="work_to_a_level",
    observable="trained steps until 80 % of the symbols are right",
    higher_is_better=False,
    smallest_effect=2000.0,
    treated=Arm("d3s", _WORLD, _UNTIL),
    baseline=Arm("d3s", {"selection": Selection(count=8), "update.learning_rate": 0.1}, _UNTIL, "every row and step"),
    rounds=60,
    budget="cost",
    scope="Steps that are sampled cost nothing here. Part of the gain is step size: kept steps have larger "
    "|advantage|. A fixed share does as well in tables (specification 140), so the schedule is not tested.",
)
