"""PRO: preference ranking optimization (arXiv 2306.17492).

s_k = log pi(y_k) / |y_k|;  T_ki = R_k - R_i (i > k), T_kk = max_i T_ki
L = sum_{k < n} (log sum_{i >= k} exp(T_ki s_i) - T_kk s_k)  -  w (n - 1)^2 log pi(y_1)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import Term
from policyopt.methods.lipo_lambda import lipo_lambda
from policyopt.objective.listwise import ListImitation, RankedList, listed, top_steps
from policyopt.update.averaging import RowMean, SequenceSum

pro = replace(
    lipo_lambda,
    about=replace(
        lipo_lambda.about,
        key="pro",
        title="Preference Ranking Optimization for Human Alignment",
        paper="arXiv 2306.17492",
        equation="the ranking loss with temperatures, and the supervised term",
        mechanism="The best answer is contrasted with all the others, then the second with those below it, and so on, "
        "by length-averaged log-probabilities. Gaps of rewards scale every contrast, so that answers that are nearly "
        "equal are hardly pushed apart. A supervised loss on the best one keeps the language. No reference model.",
        departures="Scores are multiplied by gaps, as the released code does. The weight of the supervised term is "
        "that code's 0.05.",
        when_to_use="Ranked lists with rewards, and no memory for a reference model.",
        seed=134,
        nearest="lipo_lambda",
    ),
    objective=(
        Term("ranking", RankedList(1.0, None, mean=True), RowMean(), mask=listed, couples=("pair",)),
        Term("imitation", ListImitation(), SequenceSum(), mask=top_steps, weight=0.05, couples=("pair",)),
    ),
    roles={},
    models={},
)

_WORLD = {"update.schedule": "constant", "update.learning_rate": 0.05, "update.epochs": 5, "update.clip_norm": None}

claim = Claim(
    statement="From as many rows, lists of five teach the order of all answers better than lists of two.",
    source="arXiv 2306.17492, section 4 (longer rankings); specification 134",
    experiment="graded_lists",
    observable="Kendall's tau of the policy's log-probabilities with the rewards, mean over contexts",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("pro", {**_WORLD, "selection.count": 64}, {"length": 5, "says": "order"}, label="lists of five"),
    baseline=Arm("pro", {**_WORLD, "selection.count": 160}, {"length": 2, "says": "order"}, label="lists of two"),
    rounds=60,
    scope="64 contexts, 8 arms, a linear policy of 12 features, one-step rows (a mean is a sum); random sub-lists of "
    "the arms, 320 rows a round on both sides.",
)
