"""GCPO: group contrastive policy optimization (GeometryZero, arXiv 2506.07160).

a_W, a_N: mean accuracy of a group's rows told to use a construction, told not to ;   M = +1 if a_W - a_N > eps,
-1 if a_N - a_W > eps, else 0 ;   R_i = acc + format + lambda_aux M 1[o_i uses it] + lambda_len min(|o_i| / L, 1) ; GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.methods.grpo import grpo
from policyopt.reward.contrast import ContrastBonus
from policyopt.reward.heads import HeadSum
from policyopt.reward.loops import LengthBonus
from policyopt.sampling.contrast import Contrasted

gcpo_geometryzero = replace(
    grpo,
    about=About(
        key="gcpo_geometryzero",
        title="GeometryZero: Improving Geometry Solving for LLM with Group Contrastive Policy Optimization",
        paper="arXiv 2506.07160",
        equation="group contrastive masking, length reward",
        mechanism="Whether an optional behaviour should be paid for is decided per task by an experiment inside its "
        "group: some attempts are told to show it, some not to. Where it clearly helps it earns a bonus, where it "
        "clearly harms a charge.",
        departures="lambda_aux, eps and the form of the length reward are not published in numbers: 0.5, 0.1 and a "
        "share of a limit (specification). A third of a group is told to, a third not to; the others are told nothing "
        "and compete with them. The instruction is the world's; figures and their constructions are not here.",
        when_to_use="An optional tool or habit that helps on some tasks and harms on others.",
        seed=105,
        family="A2",
        nearest="grpo",
    ),
    sampling=Contrasted(size=12, told=1 / 3),
    reward=Chain(
        (
            HeadSum({"accuracy": 1.0, "format": 1.0, "behaviour": 0.0}),
            ContrastBonus(weight=0.5, margin=0.1),
            LengthBonus(weight=0.1, limit=1024),
        )
    ),
)

_WORLD = {
    "selection.count": 8,
    "constraint.kl.weight": 0.0,
    "reward.length_bonus.limit": 2,
    "update.learning_rate": 0.1,
}

claim = Claim(
    statement="A bonus decided by the contrast inside the group answers better than the same bonus for every task.",
    source="arXiv 2506.07160, section 1 (unconditional rewards lead to harmful constructions); specification 105",
    experiment="optional_construction",
    observable="probability of a right answer without instruction, mean over tasks",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("gcpo_geometryzero", _WORLD),
    baseline=Arm("gcpo_geometryzero", {**_WORLD, "reward.conditional": False}, label="bonus for every task"),
    rounds=80,
    scope="Two kinds of symbolic tasks: the construction adds 0.5 to the chance of a right answer, or takes 0.3.",
)
