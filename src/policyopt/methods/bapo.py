"""BAPO: balanced policy optimization with adaptive clipping (arXiv 2510.18927, eq. 8 and algorithm 1).

L = mean max(-A r, -A clip(r, c_low, c_high)); at every step c_high rises from 1.2 to 3.0, then c_low from 0.6 to 0.9,
until sum [A r]+ / sum |A r|, ratios clamped at the bounds, is at least 0.4
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.methods.dapo import dapo
from policyopt.objective.balanced_clip import BalancedClip
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import TokenMean

bapo = replace(
    dapo,
    about=About(
        key="bapo",
        title="BAPO: Stabilizing Off-Policy Reinforcement Learning for LLMs via Balanced Policy Optimization with "
        "Adaptive Clipping",
        paper="arXiv 2510.18927",
        equation="eq. 8 (balance), algorithm 1 (search of the bounds); section 5.1 (target, ranges, steps)",
        mechanism="On stale rows steps with negative advantage outweigh the others. At every optimiser step the clip "
        "range is searched: negative steps are cut earlier and positive ones later, until the positive share of the "
        "surrogate reaches a target or the bounds are at their ends.",
        departures="The target 0.4 is a share of sums over sampled steps, as in the paper. The released code compares "
        "the quotient, raises the lower bound first and adds a dual clip of 3 (options quotient, first, dual_clip). "
        "With clamped values in the sums, as published, raising the lower bound never raises the share, so the search "
        "goes on to its end; counted='gradient' counts steps that are not clipped, and is not the paper's.",
        when_to_use="Rows that are several updates old, with long wrong answers; see its card for what was seen.",
        seed=43,
        family="A1",
        nearest="dapo",
    ),
    sampling=Group(size=16),
    reward=Verified(),
    objective=(Term("policy", BalancedClip(), TokenMean()),),
    update=replace(dapo.update, minibatches=8),
)

_WORLD = {
    "selection.count": 32,
    "sampling.size": 16,
    "update.minibatches": 8,
    "update.clip_norm": None,
    "update.learning_rate": 0.05,
}

claim = Claim(
    statement="Where wrong answers are longer, the searched range keeps more entropy than a clip of 0.2 on both sides.",
    source="arXiv 2510.18927, section 5.2 and figure 1 (entropy under stale rows); specification 43",
    experiment="long_wrong_answers",
    observable="entropy of the first symbol after training (nats), mean over prompts, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("bapo", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "constraint": (), "objective": (Term("policy", ClippedSurrogate(), TokenMean()),)}),
    rounds=40,
    scope="Tables; eight minibatches a round make rows up to seven updates old. The bounds that were searched and the "
    "probability of a right answer are in the notes.",
)
