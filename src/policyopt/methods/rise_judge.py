"""RISE-Judge: judge ability as a general ability (arXiv 2502.11689).

stage 1 (`rise_judge_warm_up`): L = -log p(c, v | x, A, B) on critiques that are right in both orders of A and B
stage 2: own judgments, a right against a wrong one of a comparison:  L = L_DPO(w, l) - alpha log p(w) / |w|
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.methods.dpo import dpo_online
from policyopt.methods.sft import sft
from policyopt.objective.pairwise import chosen_steps
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.agreement import RightBothWays
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import SequenceMean

rise_judge = replace(
    dpo_online,
    about=About(
        key="rise_judge",
        title="Improve LLM-as-a-Judge Ability as a General Ability",
        paper="arXiv 2502.11689",
        equation="two-stage training: supervised warm-up, DPO with a likelihood term",
        mechanism="A judge writes a critique and a verdict. After a warm-up on critiques of a stronger writer that "
        "hold in both orders, it learns from its own: one with the right verdict against one with the wrong verdict, "
        "for comparisons that it still gets both right and wrong. A likelihood term keeps the right one likely.",
        departures="instantiation: 8 judgments a comparison, one pair of them, weight 1 of the likelihood. Comparisons "
        "that are always right or always wrong make no pair, which is the paper's selection. Using the verdicts for "
        "another policy is left to the world's `prefer`.",
        when_to_use="Labelled comparisons and a judge whose critiques decide how good its verdicts are.",
        seed=34,
        family="B1",
        nearest="dpo",
        policies=("language", "tabular"),
    ),
    sampling=Group(size=8),
    objective=(
        *dpo_online.objective,
        Term("likelihood", NegativeLogLikelihood(), SequenceMean(), mask=chosen_steps, weight=1.0),
    ),
)

rise_judge_warm_up = replace(
    sft,
    about=replace(
        rise_judge.about, key="rise_judge_warm_up", equation="stage 1", nearest="sft", policies=("language",)
    ),
    selection=Selection(count=64, rows=RightBothWays()),
    reward=Verified(),
    objective=(Term("likelihood", NegativeLogLikelihood(), SequenceMean()),),
)
"""Supervised warm-up: both orders of a comparison must be drawn together, or none of it is kept."""

_RATE = {"update.learning_rate": 0.05}

claim = Claim(
    statement="After the warm-up, preferences between its own right and wrong judgments make a judge better than going "
    "on to imitate the writer of the warm-up, with as many rows.",
    source="arXiv 2502.11689, section 4 (DPO stage against supervised training alone); specification 34",
    experiment="judges_of_aspects",
    observable="probability of a right verdict on unseen comparisons, exact",
    higher_is_better=True,
    smallest_effect=0.08,
    treated=Arm("rise_judge", {**_RATE, "selection.count": 32, "update.schedule": "constant"}),
    baseline=Arm("rise_judge:rise_judge_warm_up", {**_RATE, "selection.count": 256}, label="more imitation"),
    rounds=40,
    scope="Not text: a critique names one of 6 aspects, of which one decides and the others agree with it in 6 of 10 "
    "comparisons; the writer names any that agrees. Tables. A development seed was looked at before.",
)
