"""CAMPO: context-aware multi-stage policy optimization (MiroMind-M1, arXiv 2507.14683).

R_i = 1[right] - lambda 1[rep(o_i) > 0], rep of rows that hit the length limit L_k and whose end repeats itself ;
stages L_1 < L_2 < ... ;   loss of DAPO (token mean, clip-higher, no KL, groups with spread only)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.methods.dapo import dapo
from policyopt.reward.loops import LoopPenalty
from policyopt.reward.parts import Verified

campo_miromind = replace(
    dapo,
    about=About(
        key="campo_miromind",
        title="MiroMind-M1: An Open-Source Advancement in Mathematical Reasoning via Context-Aware Multi-Stage Policy "
        "Optimization",
        paper="arXiv 2507.14683",
        equation="repetition penalty, stages of response length, objective of DAPO",
        mechanism="Rows that run into the length limit are searched for an exactly repeating end, and a constant is "
        "taken from their reward before groups are normalised. Training goes through stages of growing limits.",
        departures="Stages are the run's own: one method, a recipe with `tasks.limit` per stage. Of the groups with "
        "spread the first drawn are kept, not random ones. The charge is the released constant; that of the "
        "repeated share is an option (`adaptive`). Supervised training and the improved verifier are not here.",
        when_to_use="Long responses that get stuck in loops.",
        seed=112,
        family="A2",
        nearest="dapo",
    ),
    reward=Chain((Verified(), LoopPenalty(0.1))),
)

_WORLD = {"selection.count": 8, "sampling.most_draws": 1, "update.learning_rate": 0.05}

claim = Claim(
    statement="A charge of 0.1 for looping rows ends loops that DAPO leaves on tasks it can not solve.",
    source="arXiv 2507.14683, section 4.2 (repetition penalty); specification 112",
    experiment="looping_rows",
    observable="share of rows that reach the limit in a loop after training",
    higher_is_better=False,
    smallest_effect=0.05,
    treated=Arm("campo_miromind", {**_WORLD, "sampling.size": 8}),
    baseline=Arm("dapo", {**_WORLD, "sampling.size": 8, "reward": Verified()}, label="dapo without length penalty"),
    rounds=80,
    scope="One stage. One learning rate for both arms, as the claim is not about speed.",
)
