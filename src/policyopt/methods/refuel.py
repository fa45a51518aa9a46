"""REFUEL: regressing the relative future (arXiv 2410.04612, algorithm 1 and eq. 4).

a dialogue of pi_k is cut before a random turn h; two futures y, y' from there, rewards R, R' of the whole dialogues
L = (log pi/pi_k(y_h) - log pi/pi_k(y'_h) - eta (R - R'))^2
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.methods.gvpo import gvpo
from policyopt.objective.implicit import ImplicitRegression, compared_rows
from policyopt.sampling.forks import ForkedTurns
from policyopt.update.gradient import GradientSteps
from policyopt.update.grouped import GroupMean
from policyopt.update.optimizers import AdamW


def relative_future(eta: float) -> Term:
    """The regression of two rows: GVPO's of a group of two with beta = 1 / eta, times 4 eta^2."""
    return Term(
        "policy",
        ImplicitRegression(1 / eta, "old"),
        GroupMean(),
        mask=compared_rows,
        weight=4 * eta**2,
        couples=("group",),
    )


refuel = replace(
    gvpo,
    about=About(
        key="refuel",
        title="Regressing the Relative Future: Efficient Policy Optimization for Multi-turn RLHF",
        paper="arXiv 2410.04612",
        equation="algorithm 1; the regression on differences of future rewards",
        mechanism="Two futures are sampled from one state of the policy's own dialogue, and the difference of the "
        "turn's log-ratios is regressed on the difference of their final rewards. The policy then represents relative "
        "Q values, without a critic, in the states that it visits itself.",
        departures="A turn is drawn among those that the dialogue had. All forks of a round are one set for the "
        "regression, with the policy at its beginning as anchor. 32 dialogues a round by default (the paper: 512).",
        when_to_use="Dialogues or other rows of several turns with a reward at the end, and a world that can go back.",
        seed=101,
        family="B1",
        nearest="gvpo",
        policies=("language", "tabular"),
    ),
    sampling=ForkedTurns(),
    objective=(relative_future(1.0),),
    update=GradientSteps({"policy": AdamW(learning_rate=3e-7)}, epochs=4),
)

_WORLD = {
    "selection.count": 256,
    "objective": (relative_future(2.0),),
    "update.epochs": 10,
    "update.clip_norm": None,
    "update.learning_rate": 0.1,
}

claim = Claim(
    statement="Where early turns pay only at the end, regression on futures from random turns of the policy's own "
    "dialogues learns them; regression on the last turn of dialogues of the first policy does not.",
    source="arXiv 2410.04612, section 5 (against last-turn, offline contexts); specification 101",
    experiment="three_turns",
    observable="expected return / that of the best policy, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    threshold=0.9,
    treated=Arm("refuel", _WORLD),
    baseline=Arm(
        "refuel",
        {**_WORLD, "sampling.turn": "last"},
        {"fixed": True},
        label="the last turn, contexts of the first policy",
    ),
    rounds=25,
    scope="A table, three turns of four choices, a user who answers at random in one of five turns; eta 2.",
)
