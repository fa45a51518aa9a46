"""VeRPO: verifiable dense reward policy optimization for code (arXiv 2601.03525).

w_j = exp(-a rho_j) / (N_j + d), rho_j the rate at which the group's turns pass test j, N_j how many pass about as often
A = (R_i - mean_g R) + b (r_k - mean_g r) ;   r_k = sum_j w_j p_kj of turn k, R_i = gamma^turns 1[all tests pass]
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain
from policyopt.credit.turns import AddedAdvantages, TurnAdvantage
from policyopt.methods.grpo import grpo
from policyopt.reward.weighted_tests import WeightedTests

verpo = replace(
    grpo,
    about=About(
        key="verpo",
        title="VeRPO: Verifiable Dense Reward Policy Optimization for Code Generation",
        paper="arXiv 2601.03525",
        equation="dense turn reward from weighted unit tests; dual-level advantage",
        mechanism="A program's reward is the weighted sum of the tests it passes: hard tests weigh more, crowded ones "
        "less. Each turn of a repair dialogue has it, the episode one for full correctness that falls with its turns.",
        departures="instantiation: a, width, gamma, b = 2, 0.1, 0.9, 0.5; turns against all of the group (`among`).",
        when_to_use="Programs with several unit tests of which most rows pass some and few pass all.",
        seed=246,
        family="A2",
        nearest="grpo",
        policies=("tabular",),
    ),
    reward=WeightedTests(),
    credit=Chain(
        (
            TurnAdvantage(column=None, of="total", advantage="advantage:episode"),
            TurnAdvantage(of="own", reward="reward:turn", advantage="advantage:turn"),
            AddedAdvantages({"advantage:episode": 1.0, "advantage:turn": 0.5}),
        )
    ),
    constraint=(),
    roles={"old": grpo.roles["old"]},
    models={},
)

_WORLD = {"selection.count": 6, "sampling.size": 10}

claim = Claim(
    statement="With tests weighted by difficulty and crowding, more programs come to pass every test than with the "
    "plain share of passed tests beside the outcome.",
    source="arXiv 2601.03525, difficulty weights and density correction; specification 246",
    experiment="programs_with_tests",
    observable="probability of a program that passes every test, mean over tasks, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("verpo", _WORLD),
    baseline=Arm("verpo", {**_WORLD, "reward.slope": 0.0, "reward.width": None}, label="every test weighs the same"),
    rounds=40,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="Strings of 6 of 5 symbols with 6 tests, four of them near duplicates; one turn.",
)
