"""IterResearch: efficiency-aware policy optimization of Markovian rounds (arXiv 2511.07327, section 3).

r_it = gamma^(T_i - t) R_i of round t of T_i ;   A_it = (r_it - mean r) / std r over all rounds of all rows of the group
L = -mean_(i,t) min(s A, clip(s, 1 - e_low, 1 + e_high) A),  s = exp(mean of log pi - log pi_old over the round)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.credit.turns import TurnAdvantage
from policyopt.methods.gspo import gspo
from policyopt.selection.tasks import Selection
from policyopt.selection.turns import TurnsAsRows

iterresearch_eapo = replace(
    gspo,
    about=About(
        key="iterresearch_eapo",
        title="IterResearch: Rethinking Long-Horizon Agents via Markovian State Reconstruction",
        paper="arXiv 2511.07327",
        equation="geometric discounted reward, group advantage over rounds, adaptive downsampling, GSPO loss",
        mechanism="Every round starts from a rebuilt state instead of the whole history, so a round is a training "
        "sample of its own. The final reward is discounted backwards over rounds: short successes earn more. Rounds "
        "are standardised among all rounds of their task and thinned to a multiple of the workers.",
        departures="instantiation: gamma 0.95 and GSPO's clip range. The state is the world's: what a round sees is "
        "what its world says, here a small table, in the paper a report that the model rewrites.",
        when_to_use="Long agent episodes whose state fits a bounded report, where needless rounds cost.",
        seed=42,
        family="A2",
        nearest="gspo",
    ),
    selection=Selection(count=16, rows=TurnsAsRows()),
    credit=TurnAdvantage(gamma=0.95, scaled=True),
)

_WORLD = {
    "selection.count": 1,
    "sampling.size": 8,
    "update.minibatches": 1,
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.2,
}

claim = Claim(
    statement="Discounting the final reward over rounds makes successful episodes shorter than the same method without "
    "the discount.",
    source="arXiv 2511.07327, geometric reward discounting; specification 42",
    experiment="clues_in_turns",
    observable="expected number of turns of successful episodes after training, exact",
    higher_is_better=False,
    smallest_effect=0.2,
    treated=Arm("iterresearch_eapo", _WORLD),
    baseline=Arm("iterresearch_eapo", {**_WORLD, "credit.gamma": 1.0}, label="no discount"),
    rounds=150,
    tuning=Tuning("update.learning_rate", (0.03, 0.1)),
    scope="A chain of 3 clues with a wasteful action, one action a turn, so the ratio is that of a step and is clipped "
    "at 0.2. Notes: success of both. That success stays flat over horizons is not covered.",
)
