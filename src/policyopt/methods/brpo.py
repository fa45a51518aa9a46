"""BRPO: budget relative policy optimization for anytime reasoning (arXiv 2505.13438, sections 3.2 and 3.3).

q_ij: mean score of the answers after budget j of thought i ;   Ret_is = sum_{j>=s} P_j q_ij
thought: A_is = Ret_is - [ (s/S) V1_is + ((S-s)/S) V2_s ] ;   answer: A = c - mean of the answers of its cut
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Term
from policyopt.credit.anytime import BudgetRelative, answer_steps, thought_steps
from policyopt.methods.grpo import grpo
from policyopt.sampling.anytime import Anytime
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean

SURROGATE = grpo.objective[0].loss

brpo = replace(
    grpo,
    about=About(
        key="brpo",
        title="Optimizing Anytime Reasoning via Budget Relative Policy Optimization",
        paper="arXiv 2505.13438",
        equation="section 3.2 (anytime objective), section 3.3 (budget relative advantages)",
        mechanism="A thought is cut at several budgets and asked for answers at each, so that it yields a curve of "
        "scores. A segment of the thought is credited with the later part of the curve, less a mix of what the thought "
        "had reached before and what the group reaches from there. Answers are trained apart, within their cut.",
        departures="The mean is over the tokens of thoughts and over those of answers; the paper's text leaves the "
        "averaging open. Texts need TokenWorld(closing=...). Prior: uniform; (1, 2, 3, 4) "
        "is its linear one, (0, 0, 0, 1) the base one.",
        when_to_use="Models that may be stopped while they think.",
        seed=94,
        family="A2",
        nearest="grpo",
        policies=("language",),
    ),
    selection=Selection(count=64),
    sampling=Anytime(),
    credit=BudgetRelative(),
    objective=(
        Term("thought", SURROGATE, TokenMean(), mask=thought_steps),
        Term("answer", SURROGATE, TokenMean(), mask=answer_steps),
    ),
    constraint=(),
    roles={"old": grpo.roles["old"]},
    models={},
)

_WORLD = {"selection.count": 1, "sampling.size": 8, "sampling.budgets": (2, 4, 6, 8), "sampling.answers": 2}

claim = Claim(
    statement="With credit for every budget the area under the curve of accuracy over budgets becomes larger than with "
    "credit for the last budget alone.",
    source="arXiv 2505.13438, section 4; specification 94",
    experiment="thoughts_under_budgets",
    observable="accuracy after budgets of 2, 4, 6 and 8 steps, mean, exact",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("brpo", _WORLD),
    baseline=Arm("brpo", {**_WORLD, "credit.prior": (0.0, 0.0, 0.0, 1.0)}, label="the last budget alone"),
    rounds=60,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="Thoughts that reveal two bits with luck and the right action; a table as policy. Both arms draw the same "
    "rows, and answers are trained at every cut in both.",
)
