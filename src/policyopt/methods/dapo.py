"""DAPO: decoupled clip and dynamic sampling policy optimization (arXiv 2503.14476, eq. 8 and 11-13).

L = -1/(sum_i |o_i|) sum_i sum_t min(r A, clip(r, 1 - e_low, 1 + e_high) A),  groups with 0 < #correct < G only
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Role, Term
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import OverlongPenalty, Verified
from policyopt.sampling.samplers import DynamicSampling
from policyopt.update.averaging import TokenMean

dapo = replace(
    grpo,
    about=About(
        key="dapo",
        title="DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        paper="arXiv 2503.14476",
        equation="eq. 8 (objective), eq. 11 (dynamic sampling), eq. 13 (overlong punishment)",
        mechanism="GRPO with a higher upper clip so that rare steps can grow, resampling until every group has both "
        "right and wrong rows, a mean over all tokens of the step, a soft punishment near the length limit, no KL.",
        departures="Sampling stops after `most_draws` times the wanted number of groups, so a solved task set ends "
        "the search. A group is dropped if its rewards, shaping included, are equal (in the paper: its correctness). "
        "The paper's reward is -1/1, ours is the world's grade (advantages are the same).",
        when_to_use="Verifiable rewards when many groups are all right or all wrong, or entropy collapses under grpo.",
        nearest="grpo",
    ),
    sampling=DynamicSampling(size=16, most_draws=4),
    reward=Chain((Verified(), OverlongPenalty(limit=20480, buffer=4096))),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.28), TokenMean()),),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {
    "selection.count": 4,
    "sampling.most_draws": 1,
    "update.epochs": 8,
    "update.learning_rate": 0.05,
}

claim = Claim(
    statement="Clip-higher keeps more entropy at the same success than a clip of 0.2 on both sides.",
    source="arXiv 2503.14476, section 3.1 and figure 2",
    experiment="entropy_at_success",
    observable="entropy per symbol (nats) when success first reaches 0.7",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("dapo", _WORLD),
    baseline=Arm("dapo", {**_WORLD, "objective.clip_high": 0.2}, label="dapo with clip_high 0.2"),
    rounds=60,
    scope="Clip-higher alone: one draw a round, so that both arms see as many rows. One learning rate for both arms.",
)
