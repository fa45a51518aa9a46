"""OORL with group equivalent preference optimization (arXiv 2505.12723).

d(y) = sum_t (log pi - log pi_ref) ;   D = mean_{equivalent} d - mean_{others} d
L = w_rl L_on-policy + w_gepo (-log sigma(beta D) + lambda Var_{equivalent} d),   REINFORCE++ on own rows
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Term
from policyopt.credit.given import OfOwnRows, WhitenedAdvantage
from policyopt.credit.returns import ReturnToGo
from policyopt.methods.grpo import grpo
from policyopt.objective.implicit import EquivalentPreference, RightWrongPreference
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.sampling.beside import GroupAndRecorded, given_rows, written_steps
from policyopt.update.averaging import TokenMean
from policyopt.update.grouped import GroupMean

oorl_gepo = replace(
    grpo,
    about=About(
        key="oorl_gepo",
        title="On-Policy Optimization with Group Equivalent Preference for Multi-Programming Language Understanding",
        paper="arXiv 2505.12723",
        equation="section 3.2 (GEPO loss), section 3.3 (joint objective)",
        mechanism="On-policy learning on a task with a verifier runs beside a preference loss on recorded groups of "
        "equivalent and other answers. Equivalent ones win as a group, by their mean implicit reward, and a penalty "
        "on their spread keeps them equally likely relative to the reference.",
        departures="The method is the joint loss. The data (compiler representations of one source) are not here: "
        "recorded rows of a task are told apart by the world's grade; a world that records a single answer of each "
        "gives the preference nothing to learn from. The variance is that of log-ratios, without beta, and divides by "
        "n.",
        when_to_use="Data in which several answers to a task are known to be equivalent.",
        seed=66,
        family="A1",
        nearest="grpo",
    ),
    sampling=GroupAndRecorded(size=1, recorded=8, apart=True),
    reward=Chain((Verified(), ReferencePenalty(0.01))),
    credit=OfOwnRows(Chain((ReturnToGo(), WhitenedAdvantage()))),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean(), mask=written_steps),
        Term("preference", EquivalentPreference(), GroupMean(), mask=given_rows, weight=0.01, couples=("group",)),
    ),
    constraint=(),
)

_WORLD = {
    "selection.count": 8,
    "sampling.recorded": 12,
    "update.clip_norm": None,
    "update.learning_rate": 0.03,
    "objective.policy.weight": 0.0,
}

claim = Claim(
    statement="From a policy that ranks equivalent answers unequally, the group loss makes them more equally likely, "
    "relative to the reference, than a preference of every equivalent over every other answer.",
    source="arXiv 2505.12723, section 3.2 (intra-group variance); specification 66",
    experiment="equivalent_answers",
    observable="variance of log pi - log pi_ref over a task's equivalent answers after training, mean over tasks, "
    "exact",
    higher_is_better=False,
    smallest_effect=0.05,
    treated=Arm("oorl_gepo", {**_WORLD, "objective.preference.weight": 1.0}),
    baseline=Arm(
        "oorl_gepo",
        {
            **_WORLD,
            "objective": (
                Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean(), mask=written_steps),
                Term("preference", RightWrongPreference(beta=0.1), GroupMean(), mask=given_rows, couples=("group",)),
            ),
        },
        label="every equivalent against every other",
    ),
    rounds=200,
    scope="The preference loss alone: the on-policy term has weight 0 in both arms. Margins reached are in the notes.",
)
