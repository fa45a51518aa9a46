"""General preference model (arXiv 2410.02197): how far one answer is preferred to another, cycles included.

    P(a > b | x) = sigma( v(x, a)^T R v(x, b) ),  R = blocks of ((0, 1), (-1, 0)) ;   L = -mean log P(y_w > y_l)

A stage of its own: later ones ask the model `preference` by `reward.judge` and `feedback.judge`.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, PreferenceModel, Term, chosen_rows
from policyopt.methods.reward_model import reward_model
from policyopt.objective.reward_models import PairOdds
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

preference_model = replace(
    reward_model,
    about=About(
        key="preference_model",
        title="Beyond Bradley-Terry Models: A General Preference Model for Language Model Alignment",
        paper="arXiv 2410.02197",
        equation="preference score of representations, logistic likelihood",
        mechanism="Every answer is read once, as a representation; a skew-symmetric form of two of them gives the "
        "log-odds that one is preferred. The probabilities of both orders add up to 1 for whatever weights, and "
        "preferences need not follow from scores.",
        departures="Representations are neither scaled to unit length nor weighed by a gate of the prompt.",
        when_to_use="Before learning by games (spo, nash_md, inpo, dno), where comparisons may go in circles.",
        nearest="reward_model",
        policies=("language", "tabular"),
    ),
    objective=(Term("preference", PairOdds(), RowMean(), mask=chosen_rows, trains="preference", couples=("pair",)),),
    update=GradientSteps({"preference": AdamW(1e-5)}),
    models={"preference": PreferenceModel()},
)

_WORLD = {"update.learning_rate": 0.05, "update.schedule": "constant"}

claim = Claim(
    statement="From pairs of cyclic preferences, the general preference model learns who beats whom; Bradley and "
    "Terry's can not.",
    source="arXiv 2410.02197, abstract (cyclic preferences)",
    experiment="compared_in_cycles",
    observable="share of pairs of answers of which the model prefers the one that is preferred more often, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    threshold=0.9,
    treated=Arm("preference_model", _WORLD),
    baseline=Arm("reward_model", _WORLD),
    rounds=150,
    scope="4 cycles of 5 answers per seed, each beating the next two with chances of 0.6 to 0.95; tables. No order of "
    "five answers agrees with more than 7 of a cycle's 10 pairs.",
)
